"""Who is selected does not depend on who holds a token: random populations, dealt out in random ways.

The truth is a stable sort of the whole population by (value, place of prompt, response and token). A deal
gives every token to one of several replicas, some of which may stay empty, in any order: that covers data
parallelism, context parallelism, which cuts responses, and packing.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from support.builders import on_replicas
from torch import Tensor

from megaent.objective.covariance import HighestCovariance
from megaent.objective.seen import Tokens
from megaent.objective.select import largest, quantile, smallest
from megaent.types import Alone

SPECIAL = [0.0, -0.0, 1.0, -1.0, 5e-324, -5e-324, 1e300, -1e300, torch.inf, -torch.inf]


def population(draw: random.Random) -> Tokens:
    """Up to 60 tokens of a few responses and minibatches, some masked, some in no minibatch."""
    num_tokens, num_minibatches = draw.randint(0, 60), draw.randint(1, 3)
    places = sorted(draw.sample(range(200), num_tokens))  # a prompt has 25, a response of it 5
    order = [(n // 25 << 40) + (n // 5 % 5 << 24) + n % 5 for n in places]
    responses = sorted({n // 5 for n in places})
    share = draw.choice([0.0, 0.5, 0.9, 1.0])
    noise = torch.Generator().manual_seed(draw.randrange(2**31))
    log_prob, advantage, entropy = torch.randn(3, num_tokens, generator=noise, dtype=torch.float64)
    minibatch_of = {n: draw.randint(-1, num_minibatches - 1) for n in responses}
    return Tokens(
        log_prob=log_prob,
        log_prob_old=log_prob,
        log_prob_engine=log_prob,
        entropy=entropy.abs(),
        advantage=advantage.round(),
        mask=torch.tensor([draw.random() < share for _ in places], dtype=torch.bool),
        owner=torch.tensor([responses.index(n // 5) for n in places], dtype=torch.int64),
        num_responses=len(responses),
        order=torch.tensor(order, dtype=torch.int64),
        minibatch=torch.tensor([minibatch_of[n // 5] for n in places], dtype=torch.int64),
        num_minibatches=num_minibatches,
        population=Alone(),
    )


def values_of(draw: random.Random, tokens: Tokens) -> Tensor:
    """Distinct ones, many ties, and everything that floats have to offer."""
    kinds: list[Callable[[], float]] = [
        lambda: draw.gauss(0, 1),
        lambda: float(draw.randint(-1, 1)),
        lambda: draw.choice(SPECIAL),
        lambda: draw.choice([*SPECIAL, draw.gauss(0, 1)]),
        lambda: 1.0,
    ]
    kind, dtype = draw.choice(kinds), draw.choice([torch.float32, torch.float64])
    return torch.tensor([kind() for _ in range(tokens.order.numel())], dtype=dtype)


def deals(draw: random.Random, tokens: Tokens, value: Tensor) -> Iterator[list[tuple[Tokens, Tensor]]]:
    """The population as it is, and dealt out twice."""
    yield [(tokens, value)]
    for _ in range(2):
        num_replicas = draw.randint(1, 4)
        shuffled = draw.sample(range(value.numel()), value.numel())
        holder = [draw.randrange(num_replicas) for _ in shuffled]
        yield [
            part_of(tokens, value, [n for n, h in zip(shuffled, holder, strict=True) if h == replica])
            for replica in range(num_replicas)
        ]


def part_of(tokens: Tokens, value: Tensor, places: list[int]) -> tuple[Tokens, Tensor]:
    at = torch.tensor(places, dtype=torch.int64)
    per_token = {f.name: getattr(tokens, f.name) for f in fields(tokens)}
    return replace(tokens, **{k: v[at] for k, v in per_token.items() if isinstance(v, Tensor)}), value[at]


def by_place(rule: Callable[[Tokens, Tensor], Tensor], shares: list[tuple[Tokens, Tensor]]) -> dict[int, Any]:
    """Place of a token -> what the rule says of it, each share on a replica of its own."""

    def run(share: Any, replica: Any) -> dict[int, Any]:
        tokens, value = share
        found = rule(replace(tokens, population=replica), value)
        return dict(zip(tokens.order.tolist(), found.tolist(), strict=True))

    return {place: said for part in on_replicas(run, shares) for place, said in part.items()}


def counted(tokens: Tokens, value: Tensor, minibatch: int) -> list[tuple[float, int]]:
    """(value, place) of what takes part."""
    where = tokens.counted() & (tokens.minibatch == minibatch)
    return list(zip(value[where].tolist(), tokens.order[where].tolist(), strict=True))


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("name", ["smallest", "largest"])
def test_the_first_of_a_stable_sort_are_selected(seed: int, name: str) -> None:
    draw = random.Random(seed)
    tokens = population(draw)
    value = values_of(draw, tokens)
    sizes = [len(counted(tokens, value, m)) for m in range(tokens.num_minibatches)]
    counts = [draw.choice([0, 1, size, size + 5, draw.randint(0, size)]) for size in sizes]
    select, sign = (smallest, 1) if name == "smallest" else (largest, -1)
    expected: set[int] = set()
    for minibatch, count in enumerate(counts):
        ranked = sorted(counted(tokens, sign * value, minibatch))
        expected |= {place for _, place in ranked[:count]}
    for shares in deals(draw, tokens, value):
        found = by_place(lambda t, v: select(t, v, torch.tensor(counts)), shares)
        assert {place for place, is_chosen in found.items() if is_chosen} == expected


@pytest.mark.parametrize("seed", range(40))
def test_the_quantile_is_that_of_a_sort(seed: int) -> None:
    draw = random.Random(1000 + seed)
    tokens = population(draw)
    value = values_of(draw, tokens)
    q = draw.choice([0.0, 0.5, 0.8, 1.0, draw.random()])
    expected = {}
    for minibatch in range(tokens.num_minibatches):
        ranked = [v for v, _ in sorted(counted(tokens, value, minibatch))]
        expected[minibatch] = between(ranked, q) if ranked else 0.0
    minibatch_at = dict(zip(tokens.order.tolist(), tokens.minibatch.tolist(), strict=True))
    for shares in deals(draw, tokens, value):
        for place, found in by_place(lambda t, v: quantile(t, v, q), shares).items():
            if minibatch_at[place] >= 0:
                assert found == pytest.approx(expected[minibatch_at[place]], rel=1e-15, abs=0, nan_ok=True)


def between(ranked: list[float], q: float) -> float:
    """Linear between order statistics; an infinite one is reached at once, opposite ones give NaN."""
    place = (len(ranked) - 1) * q
    lower, upper, share = ranked[int(place)], ranked[math.ceil(place)], place - int(place)
    if share == 0 or lower == upper:
        return lower
    if abs(lower) == torch.inf or abs(upper) == torch.inf:
        return lower + upper
    return float(torch.lerp(*torch.tensor([lower, upper, share], dtype=torch.float64)))


@pytest.mark.parametrize("seed", range(20))
def test_the_highest_covariances_are_the_same_however_tokens_are_dealt(seed: int) -> None:
    """Advantages are integers here, so equal covariances happen where log-probs are equal too."""
    draw = random.Random(2000 + seed)
    tokens = population(draw)
    ties = (4 * tokens.log_prob).round() / 4 if draw.random() < 0.5 else tokens.log_prob
    tokens = replace(tokens, log_prob=ties)
    rule = HighestCovariance(fraction=draw.choice([0.01, 0.2, 0.5, 1.0]))
    found = [
        by_place(lambda t, _: rule(t, None), shares)
        for shares in deals(draw, tokens, torch.zeros_like(tokens.log_prob))
    ]
    assert all(one == found[0] for one in found[1:])
    for minibatch in range(tokens.num_minibatches):
        where = tokens.counted() & (tokens.minibatch == minibatch)
        size = int(where.sum())
        chosen = sum(found[0][place] > 0 for place in tokens.order[where].tolist())
        assert chosen == min(size, max(1, int(size * rule.fraction)))
