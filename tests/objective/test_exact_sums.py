"""Sums that are ``math.fsum``'s to the last bit, in any order and however the numbers are dealt out."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from support.batches import random_groups
from support.builders import masked, on_replicas, scored
from support.old_tokens import a_batch, old_tokens, seen_by, shares
from torch import Tensor

from megaent.objective.covariance import covariance
from megaent.objective.exact_sums import long_sums, rounded
from megaent.objective.seen import Notes, Tokens, totals
from megaent.types import Alone, Replicas

LARGEST, TINIEST = torch.finfo(torch.float64).max, 5e-324


def anything(draw: random.Random) -> float:
    """Magnitudes from 1e-30 to 1e30, and the ends of what an fp64 can hold."""
    special = (0.0, -0.0, 1.0, TINIEST, -TINIEST, 3e-310, 2.0**-1022, 2.0**1000, -(2.0**1000))
    return draw.choice([draw.gauss(0, 1) * 10.0 ** draw.uniform(-30, 30), draw.choice(special)])


def cancelling(draw: random.Random, count: int) -> list[float]:
    """Pairs that take each other away, and what is left is 30 orders of magnitude smaller."""
    pairs = [draw.gauss(0, 1) * 1e30 for _ in range(count // 2)]
    return [*pairs, *(-x for x in pairs), *(draw.gauss(0, 1) for _ in range(3))]


def deal(draw: random.Random, places: int, num_replicas: int) -> list[Tensor]:
    """Places in a random order, each to a replica; some replicas have none."""
    holder = [draw.randrange(num_replicas) for _ in range(places)]
    order = draw.sample(range(places), places)
    return [
        torch.tensor([n for n in order if holder[n] == r], dtype=torch.int64) for r in range(num_replicas)
    ]


@pytest.mark.parametrize("seed", range(60))
def test_every_order_and_every_deal_gives_the_sum_rounded_once(seed: int) -> None:
    draw = random.Random(seed)
    count, num_keys = draw.randint(0, 80), draw.randint(1, 4)
    numbers = [anything(draw) for _ in range(count)] if seed % 2 else cancelling(draw, count)
    key = [draw.randrange(num_keys) for _ in numbers]
    expected = [math.fsum(x for x, k in zip(numbers, key, strict=True) if k == m) for m in range(num_keys)]
    value_N, key_N = torch.tensor(numbers, dtype=torch.float64), torch.tensor(key, dtype=torch.int64)
    for num_replicas in (1, 2, 7):
        parts = deal(draw, len(numbers), num_replicas)

        def run(at: Tensor, replica: Replicas) -> list[list[float]]:
            return totals(replica, (value_N[at], -value_N[at]), key_N[at], num_keys).tolist()

        for found in on_replicas(run, parts):
            assert found == [expected, [-x for x in expected]]


@pytest.mark.parametrize(
    "numbers",
    [
        [LARGEST, LARGEST],
        [-LARGEST, -LARGEST, 1.0],
        [LARGEST, 2.0**969],  # below half of the last place
        [LARGEST, 2.0**970],  # half of it: rounds to even, which is beyond the largest
        [LARGEST, LARGEST, -LARGEST],  # a sum from left to right would be inf
        [1.0, 2.0**-53],  # half of the last place of 1, to even
        [1.0, 2.0**-53, TINIEST],  # a little more than half
        [2.0**-1022, -TINIEST],
        [-0.0, -0.0],
        [],
    ],
)
def test_ends_and_halves_are_rounded_as_ieee_says(numbers: list[float]) -> None:
    exact = sum(map(Fraction, numbers), Fraction(0))
    try:
        expected = float(exact)
    except OverflowError:
        expected = math.inf if exact > 0 else -math.inf
    value_N = torch.tensor(numbers, dtype=torch.float64)
    found = rounded(long_sums(value_N, torch.zeros(len(numbers), dtype=torch.int64), 1))
    assert found.tolist() == [expected]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([1.0, math.inf], math.inf),
        ([-math.inf, 5.0, -math.inf], -math.inf),
        ([math.inf, -math.inf], math.nan),
        ([1.0, math.nan, math.inf], math.nan),
        ([-math.nan], math.nan),
    ],
)
def test_what_is_not_finite_is_not_hidden(numbers: list[float], expected: float) -> None:
    """In its own key, and there alone."""
    value_N = torch.tensor([*numbers, 2.0], dtype=torch.float64)
    key_N = torch.tensor([1] * len(numbers) + [0])
    found = rounded(long_sums(value_N, key_N, 3)).tolist()
    assert found == pytest.approx([2.0, expected, 0.0], nan_ok=True)


def test_limbs_hold_two_to_the_31_numbers() -> None:
    """All bits set, so that every limb is as large as it can be; 2^31 of them, and the sum is still exact."""
    number = math.nextafter(2.0, 0.0)
    sums = long_sums(torch.tensor([number, -number], dtype=torch.float64), torch.tensor([0, 1]), 2)
    assert rounded(sums * 2**31).tolist() == [number * 2.0**31, -number * 2.0**31]
    for exponent in range(-1074, 972):  # every place within a limb, and every limb
        value_N = torch.tensor([(2.0**53 - 1) * 2.0**exponent], dtype=torch.float64)
        limbs = long_sums(value_N, torch.tensor([0]), 1)[0]
        assert int(limbs.max()) < 2**32
        assert rounded(limbs[None])[0] == value_N[0]


class Counting(Alone):
    def __init__(self) -> None:
        self.num_sums = self.num_maxima = 0

    def sum(self, value: Tensor) -> Tensor:
        self.num_sums += 1
        return value

    def max(self, value: Tensor) -> Tensor:
        self.num_maxima += 1
        return value


@pytest.mark.parametrize(
    ("rule", "num_sums"),
    [
        (lambda tokens: tokens.total(tokens.advantage), 1),
        (lambda tokens: tokens.mean(tokens.advantage), 1),
        (covariance, 1),
    ],
)
def test_what_is_asked_at_once_shares_a_reduction(rule: Callable[[Tokens], Tensor], num_sums: int) -> None:
    population = Counting()
    rule(old_tokens(a_batch(), population))
    assert (population.num_sums, population.num_maxima) == (num_sums, 0)


@pytest.mark.parametrize("num_replicas", [2, 3, 7])
def test_covariances_have_the_same_bits_on_every_replica_and_in_every_order(num_replicas: int) -> None:
    """In fp64, where sums that depend on their order would show; tokens are dealt one by one."""
    draw = random.Random(num_replicas)
    whole = old_tokens(masked(scored(random_groups(num_replicas, num_groups=5)), every=4))
    noise = torch.Generator().manual_seed(num_replicas)
    size = whole.order.shape
    whole = replace(
        whole,
        log_prob=torch.randn(size, generator=noise, dtype=torch.float64).exp(),
        advantage=torch.randn(size, generator=noise, dtype=torch.float64) * 1e3,
    )
    expected = covariance(whole)
    parts = deal(draw, int(size[0]), num_replicas)

    def run(at: Tensor, replica: Replicas) -> Tensor:
        share = {name: getattr(whole, name)[at] for name in ("log_prob", "advantage", "mask", "minibatch")}
        return covariance(replace(whole, **share, population=replica))

    for at, found in zip(parts, on_replicas(run, parts), strict=True):
        assert torch.equal(found, expected[at])


def test_reported_means_have_the_same_bits_on_every_replica() -> None:
    def run(batch, replica: Replicas) -> dict[str, float]:
        notes, tokens = Notes(), old_tokens(batch, replica)
        notes.mean("of all", tokens.advantage.double().exp())
        notes.mean("of some", tokens.log_prob.double().sin(), tokens.counted())
        notes.mean("share", tokens.mask)
        return notes.reduce(seen_by(batch, replica).population)

    expected = run(a_batch(), Alone())
    assert expected["share"] == float(a_batch().mask.double().mean())
    for cuts in ((1,), (2, 3), (0, 4), (1, 2, 3, 4)):
        for found in on_replicas(run, shares(cuts)):
            assert found == expected
