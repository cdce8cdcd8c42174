"""Exact order statistics against sorting, with ties, signs and replicas."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.golden_inputs import experience
from support.golden_inputs import tokens as tokens_of
from support.old_tokens import a_batch, assert_same_on_replicas, old_tokens
from torch import Tensor

from megaent.objective.seen import Tokens
from megaent.objective.select import largest, quantile, smallest


def by_sorting(tokens: Tokens, value_N: Tensor, count: int, minibatch: int) -> set[int]:
    places = [n for n in range(value_N.numel()) if tokens.counted()[n] and tokens.minibatch[n] == minibatch]
    return set(sorted(places, key=lambda n: (float(value_N[n]), int(tokens.order[n])))[:count])


VALUES = {
    "distinct": lambda x: x,
    "many ties": lambda x: (3 * x).round(),
    "all equal": torch.zeros_like,
    "signed zeros": lambda x: torch.where(x > 0, 0.0, -0.0) * torch.ones_like(x),
    "tiny and huge": lambda x: torch.where(x > 0, x * 1e-300, x * 1e300),
    "infinite": lambda x: torch.where(x > 0.3, torch.inf, torch.where(x < -0.3, -torch.inf, x)),
}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
@pytest.mark.parametrize("counts", [(0, 3), (1, 1), (4, 0), (7, 100)])
def test_the_smallest_and_the_largest_are_those_of_a_sort(values, counts: tuple[int, int]) -> None:
    tokens = old_tokens(a_batch())
    value = values(torch.cos(7.0 * tokens.order.double() % 101))
    found = smallest(tokens, value, torch.tensor(counts))
    expected = set().union(*(by_sorting(tokens, value, counts[m], m) for m in (0, 1)))
    assert set(found.nonzero()[:, 0].tolist()) == expected
    found = largest(tokens, value, torch.tensor(counts))
    expected = set().union(*(by_sorting(tokens, -value, counts[m], m) for m in (0, 1)))
    assert set(found.nonzero()[:, 0].tolist()) == expected


@pytest.mark.parametrize("q", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_the_quantile_is_torch_s(q: float) -> None:
    tokens = old_tokens(a_batch())
    value = torch.sin(tokens.order.double())
    found = quantile(tokens, value, q)
    for minibatch in (0, 1):
        where = tokens.counted() & (tokens.minibatch == minibatch)
        expected = float(value[where].quantile(q))
        assert found[where].tolist() == pytest.approx([expected] * int(where.sum()), rel=1e-15)


def test_replicas_select_what_one_selects() -> None:
    def ties(tokens: Tokens) -> Tensor:
        return (2 * tokens.advantage).round()

    counts = torch.tensor([5, 3])
    assert_same_on_replicas(lambda tokens, _: smallest(tokens, ties(tokens), counts))
    assert_same_on_replicas(lambda tokens, _: quantile(tokens, tokens.entropy, 0.7))


def test_a_nan_is_refused_where_it_counts() -> None:
    tokens = old_tokens(a_batch())
    value = torch.where(tokens.counted(), 0.0, torch.nan)
    assert int(smallest(tokens, value, torch.tensor([1, 1])).sum()) == 2
    with pytest.raises(ValueError, match="a NaN cannot be ranked"):
        smallest(tokens, torch.full_like(value, torch.nan), torch.tensor([1, 1]))


def test_nothing_to_select_from() -> None:
    none = tokens_of(experience([]))
    assert smallest(none, torch.zeros(0), torch.tensor([3])).tolist() == []
    assert quantile(none, torch.zeros(0), 0.5).tolist() == []
    untrained = old_tokens(replace(a_batch(), mask=torch.zeros(a_batch().num_tokens, dtype=torch.bool)))
    assert not bool(smallest(untrained, untrained.entropy, torch.tensor([3, 3])).any())
    assert bool((quantile(untrained, untrained.entropy, 0.5) == 0).all())
