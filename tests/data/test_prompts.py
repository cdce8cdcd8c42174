"""The stream of prompts: whole epochs, no repeats in a step, any step alone."""

from __future__ import annotations

import pytest

from megaent.data.prompts import PromptStream
from megaent.errors import DataError
from megaent.types import Prompt


def prompts(number: int) -> list[Prompt]:
    return [Prompt(id=f"p{i}", tokens=(i,), text="", answer="") for i in range(number)]


def ids(stream: PromptStream, steps: range) -> list[list[str]]:
    return [[prompt.id for _, prompt in stream.take(step * stream.per_step)] for step in steps]


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
    assert [place for place, _ in PromptStream(prompts(9), per_step=4, seed=0).take(20)] == [0, 1, 2, 3]


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


# ---------------------------------------------------------------- steps that changed their size


def flow(stream: PromptStream, *, before: int, steps: int) -> list[str]:
    return [p.id for n in range(steps) for _, p in stream.take(before + n * stream.per_step)]


@pytest.mark.parametrize("number", [16, 23])
@pytest.mark.parametrize("sizes", [(4, 2), (4, 8), (7, 3), (3, 7), (5, 4)])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 11])
def test_another_size_repeats_and_skips_no_prompt_of_an_epoch(
    number: int, sizes: tuple[int, int], steps: int
) -> None:
    first, second = sizes
    begun = first * steps
    one = PromptStream(prompts(number), per_step=first, seed=3)
    two = PromptStream(prompts(number), per_step=second, seed=3, sizes=((0, first), (begun, second)))
    asked = flow(one, before=0, steps=steps) + flow(two, before=begun, steps=4 * number)
    for epoch in range(len(asked) // number):
        assert len(set(asked[epoch * number : (epoch + 1) * number])) == number, epoch
    later = [asked[begun + n * second : begun + (n + 1) * second] for n in range(4 * number)]
    assert all(len(set(step)) == second for step in later)


def test_a_size_changed_twice_is_an_epoch_still() -> None:
    sizes = ((0, 4), (8, 3), (14, 5))
    parts = [
        flow(
            PromptStream(prompts(12), per_step=size, seed=1, sizes=sizes[: n + 1]), before=start, steps=steps
        )
        for n, ((start, size), steps) in enumerate(zip(sizes, (2, 2, 12), strict=True))
    ]
    asked = [name for part in parts for name in part]
    assert all(len(set(asked[12 * e : 12 * e + 12])) == 12 for e in range(len(asked) // 12))


def test_the_present_size_may_be_spelled_out() -> None:
    plain = PromptStream(prompts(23), per_step=7, seed=0)
    spelled = PromptStream(prompts(23), per_step=7, seed=0, sizes=((0, 7),))
    assert ids(plain, range(30)) == ids(spelled, range(30))


def test_a_step_of_a_whole_epoch_cannot_begin_in_the_middle_of_one() -> None:
    with pytest.raises(DataError, match=r"4 prompts of this epoch's 8 .* choose 4 or fewer"):
        PromptStream(prompts(8), per_step=8, seed=0, sizes=((0, 4), (12, 8)))
