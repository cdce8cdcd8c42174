"""AEPO: what a second rollout's responses teach, and whose place they take."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.builders import group, on_replicas, scored, seen
from torch import Tensor

from megaent.objective.advantages import GroupRelative
from megaent.objective.second_rollout import Replace, SecondAdvantage
from megaent.objective.seen import Seen, batch_tokens
from megaent.types import Alone, Experience, Group, Replicas

FIRST = [group(0, [1, 0, 0], [2, 3, 1]), group(1, [1, 1, 0], [1, 2, 2]), group(2, [0, 0], [3, 1])]
SECOND = [group(20, [1, 0, 1, 0], [2, 1, 1, 2]), group(21, [1, 1], [2, 3])]  # two better ones, then none


def batch_of(groups: list[Group]) -> Experience:
    batch = scored(groups)
    return replace(batch, is_second=(batch.index >= 20)[batch.group])


def seen_of(batch: Experience, limit: float, population: Replicas | None = None) -> Seen:
    return seen(batch, population=population or Alone(), coefs={"num_replaced": limit})


def weights(batch: Experience, limit: float, population: Replicas | None = None) -> tuple[Tensor, Tensor]:
    """Advantage and weight of each response."""
    given = seen_of(batch, limit, population)
    advantage_S = SecondAdvantage()(batch.reward, given)
    weight_T = Replace()(batch_tokens(given, advantage_S[batch.owner].float()), given)
    weight_S = torch.zeros(batch.num_responses).scatter(0, batch.owner, weight_T)
    assert torch.equal(weight_S[batch.owner], weight_T), "one weight for all tokens of a response"
    return advantage_S, weight_S


def test_better_responses_of_the_second_rollout_have_advantage_1() -> None:
    batch = batch_of(FIRST + SECOND)
    advantage, _ = weights(batch, 60)
    plain = GroupRelative()(batch.reward, seen(batch))
    assert torch.equal(advantage[:8], plain[:8])
    assert advantage[8:].tolist() == [1, 0, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (60, [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 0, 0]),
        (1, [0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0]),
        (0, [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]),
    ],
)
def test_as_many_leave_as_join_and_the_first_ones_first(limit: int, expected: list[int]) -> None:
    """Eight responses of the first rollout, then six of the second."""
    _, weight = weights(batch_of(FIRST + SECOND), limit)
    assert weight.tolist() == expected


@pytest.mark.parametrize("limit", [0, 1, 2, 60])
@pytest.mark.parametrize("cut", range(6))
def test_replicas_replace_what_one_replaces(limit: int, cut: int) -> None:
    groups = FIRST + SECOND
    _, expected = weights(batch_of(groups), limit)
    parts = on_replicas(
        lambda b, p: weights(b, limit, p)[1], [batch_of(groups[:cut]), batch_of(groups[cut:])]
    )
    assert torch.equal(torch.cat(parts), expected)


def test_without_a_second_rollout_nothing_changes() -> None:
    batch = scored(FIRST)
    assert batch.is_second is None
    advantage, weight = weights(batch, 60)
    assert torch.equal(advantage, GroupRelative()(batch.reward, seen(batch)))
    assert weight.tolist() == [1.0] * 8


def test_the_entropy_of_the_first_rollout_is_reported() -> None:
    batch = batch_of(FIRST + SECOND)
    assert batch.entropy is not None
    given = seen_of(batch, 60)
    SecondAdvantage()(batch.reward, given)
    told = given.notes.reduce(Alone())["aepo/entropy"]
    assert told == pytest.approx(float(batch.entropy[batch.owner < 8].double().mean()), rel=1e-9)


def test_the_limit_must_be_given() -> None:
    batch = batch_of(FIRST)
    with pytest.raises(ValueError, match=r"Seen\.coefs must hold 'num_replaced'"):
        Replace()(batch_tokens(seen(batch), torch.zeros(batch.num_tokens)), seen(batch))
