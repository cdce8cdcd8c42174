"""The stream of prompts: whole epochs, no repeats in a step, any step alone."""

from __future__ import annotations

import pytest

from megaent.data.prompts import PromptStream
from megaent.errors import DataError
from megaent.types import Prompt


def prompts(number: int) -> list[Prompt]:
    return [Prompt(id=f"p{i}", tokens=(i,), text="", answer="") for i in range(number)]


def ids(stream: PromptStream, steps: range) -> list[list[str]]:
    return [[prompt.id for _, prompt in stream.take(step)] for step in steps]


@pytest.mark.parametrize(("number", "per_step"), [(8, 4), (11, 4), (8, 8), (9, 1), (23, 7), (13, 6)])
def test_every_epoch_holds_every_prompt_once(number: int, per_step: int) -> None:
    stream = PromptStream(prompts(number), per_step=per_step, seed=3)
    flat = [name for step in ids(stream, range(number * 3)) for name in step]
    for epoch in range(3 * per_step):
        assert sorted(flat[epoch * number : (epoch + 1) * number]) == sorted(p.id for p in prompts(number))


@pytest.mark.parametrize(("number", "per_step"), [(11, 4), (23, 7), (13, 6), (15, 7)])
def test_a_step_across_two_epochs_holds_no_prompt_twice(number: int, per_step: int) -> None:
    stream = PromptStream(prompts(number), per_step=per_step, seed=0)
    steps = ids(stream, range(10 * number))
    assert all(len(set(step)) == per_step for step in steps)


def test_places_count_from_zero() -> None:
    assert [place for place, _ in PromptStream(prompts(9), per_step=4, seed=0).take(5)] == [0, 1, 2, 3]


def test_a_step_can_be_asked_for_alone_and_again() -> None:
    in_order = ids(PromptStream(prompts(11), per_step=4, seed=5), range(40))
    stream = PromptStream(prompts(11), per_step=4, seed=5)
    assert [ids(stream, range(step, step + 1))[0] for step in (39, 0, 17, 17, 3)] == [
        in_order[step] for step in (39, 0, 17, 17, 3)
    ]


def test_epochs_and_seeds_are_ordered_differently() -> None:
    orders = {
        tuple(ids(PromptStream(prompts(30), per_step=30, seed=s), range(e, e + 1))[0])
        for s in (0, 1)
        for e in (0, 1)
    }
    assert len(orders) == 4


def test_the_order_of_the_file_does_not_matter() -> None:
    forwards = ids(PromptStream(prompts(12), per_step=4, seed=1), range(9))
    assert ids(PromptStream(prompts(12)[::-1], per_step=4, seed=1), range(9)) == forwards


def test_repeated_ids_are_refused() -> None:
    with pytest.raises(DataError, match="unique, got 1 of them twice, first 'p2'"):
        PromptStream([*prompts(4), prompts(3)[2]], per_step=2, seed=0)


@pytest.mark.parametrize("number", [0, 3, 5, 7])
def test_too_few_prompts_for_a_step_are_refused(number: int) -> None:
    with pytest.raises(DataError, match=r"lower rollout\.prompts_per_step"):
        PromptStream(prompts(number), per_step=4, seed=0)
