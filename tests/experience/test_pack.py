"""Groups to arrays: order, shapes, and what is refused."""

from __future__ import annotations

import itertools
import math
from dataclasses import fields, replace

import pytest
import torch
from support.builders import group
from torch import Tensor

from megaent.errors import EngineError
from megaent.experience.pack import assign_minibatches, mark_steps, pack
from megaent.types import Grade, Group, Prompt, Response

PROMPT = Prompt(id="p", tokens=(1, 2), text="", answer="")


def one_group(*responses: Response, grades: int | None = None) -> Group:
    count = len(responses) if grades is None else grades
    return Group(
        index=0, prompt=PROMPT, responses=responses, grades=(Grade(reward=1.0, correct=True),) * count
    )


def response(*log_prob: float, tokens: int | None = None) -> Response:
    return Response(
        tokens=tuple(range(len(log_prob) if tokens is None else tokens)),
        log_prob=log_prob,
        finish="stop",
        version=1,
    )


def test_the_example_of_the_type_s_page() -> None:
    first = Group(
        index=4,
        prompt=replace(PROMPT, id="a"),
        responses=(
            Response(tokens=(7, 8, 2), log_prob=(-0.1, -0.2, -0.3), finish="stop", version=1),
            Response(tokens=(7, 2), log_prob=(-0.4, -0.5), finish="stop", version=1),
        ),
        grades=(Grade(reward=1.0, correct=True), Grade(reward=-0.5, correct=False)),
    )
    second = Group(
        index=9,
        prompt=replace(PROMPT, id="b"),
        responses=(Response(tokens=(9, 9), log_prob=(-0.6, -0.7), finish="length", version=1),),
        grades=(Grade(reward=0.25, correct=True),),
    )
    batch = pack([second, first])  # whatever the order they come in
    assert [prompt.id for prompt in batch.prompts] == ["a", "b"]
    assert batch.index.tolist() == [4, 9]
    assert batch.token.tolist() == [7, 8, 2, 7, 2, 9, 9]
    assert batch.owner.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert batch.position.tolist() == [0, 1, 2, 0, 1, 0, 1]
    assert batch.group.tolist() == [0, 0, 1]
    assert batch.length.tolist() == [3, 2, 2]
    assert batch.reward.tolist() == [1.0, -0.5, 0.25]
    assert batch.correct.tolist() == [True, False, True]
    assert batch.truncated.tolist() == [False, False, True]
    assert batch.log_prob_engine.tolist() == pytest.approx([-0.1, -0.2, -0.3, -0.4, -0.5, -0.6, -0.7])
    assert batch.mask.tolist() == [True] * 7
    assert batch.log_prob_old is batch.entropy is batch.log_prob_ref is None
    assert (batch.num_tokens, batch.num_responses) == (7, 3)


def dtypes() -> dict[str, torch.dtype]:
    integers = dict.fromkeys(
        ("index", "token", "owner", "position", "group", "length", "version"), torch.int64
    )
    bools = dict.fromkeys(("mask", "correct", "truncated", "format_ok"), torch.bool)
    return integers | bools | {"log_prob_engine": torch.float32, "reward": torch.float64}


@pytest.mark.parametrize(
    "groups", [[], [group(0, [1, 0], [3, 1])], [one_group()]], ids=["none", "one", "empty"]
)
def test_types_are_the_same_with_and_without_content(groups: list[Group]) -> None:
    batch = pack(groups)
    found = {
        item.name: getattr(batch, item.name).dtype
        for item in fields(batch)
        if isinstance(getattr(batch, item.name), Tensor)
    }
    assert found == dtypes()


def test_every_order_of_the_groups_gives_one_batch() -> None:
    groups = [group(2, [1, 0], [3, 1]), group(0, [1], [4]), group(7, [0, 0, 1], [1, 1, 2])]
    batches = [pack(order) for order in itertools.permutations(groups)]
    for item in fields(batches[0]):
        values = [getattr(batch, item.name) for batch in batches]
        if isinstance(values[0], Tensor):
            assert all(torch.equal(value, values[0]) for value in values), item.name
    assert batches[0].index.tolist() == [0, 2, 7]


def test_a_response_without_tokens_keeps_its_place() -> None:
    batch = pack([one_group(response(-0.1), response(), response(-0.2, -0.3))])
    assert batch.length.tolist() == [1, 0, 2]
    assert batch.owner.tolist() == [0, 2, 2]
    assert batch.position.tolist() == [0, 0, 1]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_log_prob_that_is_not_finite_is_refused_with_its_place(value: float) -> None:
    with pytest.raises(EngineError, match=r"response 1 to prompt 'p'.*at token 2"):
        pack([one_group(response(-0.1), response(-0.1, -0.2, value))])


def test_log_probs_that_do_not_match_the_tokens_are_refused() -> None:
    with pytest.raises(EngineError, match=r"response 0 to prompt 'p' has 3 tokens but 2 log-probs"):
        pack([one_group(response(-0.1, -0.2, tokens=3))])


def test_a_group_without_its_grades_is_refused() -> None:
    with pytest.raises(ValueError, match="2 responses and 1 grades; grade it first"):
        pack([one_group(response(-0.1), response(-0.1), grades=1)])


# ---------------------------------------------------------------- minibatches


@pytest.mark.parametrize("num_minibatches", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("holders", [1, 2, 3])
def test_minibatches_do_not_depend_on_who_holds_what(num_minibatches: int, holders: int) -> None:
    indices = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38]
    expected = {
        index: minibatch
        for minibatch, part in enumerate(
            torch.tensor(sorted(indices)).tensor_split(
                [math.ceil(10 * m / num_minibatches) for m in range(1, num_minibatches)]
            )
        )
        for index in part.tolist()
    }
    seen = {}
    for holder in range(holders):
        mine = indices[holder::holders]
        everyone = indices[holder:] + indices[:holder]  # in whatever order the others are heard
        found = assign_minibatches(torch.tensor(mine), everyone, num_minibatches)
        assert found.dtype == torch.int64
        seen |= dict(zip(mine, found.tolist(), strict=True))
    assert seen == expected
    sizes = [list(seen.values()).count(number) for number in range(num_minibatches)]
    assert max(sizes) - min(sizes) <= 1, "as equal as they can be"
    assert sum(sizes) == 10


def test_a_replica_without_groups_has_no_minibatches() -> None:
    assert assign_minibatches(torch.tensor([], dtype=torch.int64), [1, 2], 2).tolist() == []
    assert assign_minibatches(torch.tensor([], dtype=torch.int64), [], 2).tolist() == []


def test_thinking_ends_with_the_first_token_that_says_so() -> None:
    end, brk = 50, 7
    rows = [(1, brk, end, brk, end, 3), (end,), (2, brk, 4), (brk, end)]
    prompt = Prompt(id="p", tokens=(1,), text="", answer="")
    drawn = [Response(tokens=row, log_prob=(-1.0,) * len(row), finish="stop", version=0) for row in rows]
    grades = (Grade(reward=0.0, correct=False),) * len(rows)
    batch = pack([Group(index=0, prompt=prompt, responses=tuple(drawn), grades=grades)])
    marked = mark_steps(batch, torch.tensor([brk]), torch.tensor([end, 51]))
    assert marked.in_thinking is not None
    assert marked.closes_step is not None
    expected = [place < row.index(end) if end in row else True for row in rows for place in range(len(row))]
    assert marked.in_thinking.tolist() == expected
    assert marked.closes_step.tolist() == [token == brk for row in rows for token in row]
    assert mark_steps(batch, torch.tensor([brk])).in_thinking is None
