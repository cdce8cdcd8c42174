"""Draws are functions of their purpose: known answers, uniform, in range, and free of any state."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from megaent.randomness import draw_seed, uniform

# The first outputs of SplitMix64 for seed 1234567, as its authors' code prints them.
SPLITMIX = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]
_WORD = 2**64


def signed(word: int) -> int:
    return word - _WORD if word >= _WORD // 2 else word


def test_splitmix_gives_its_known_answers() -> None:
    numbers = uniform(torch.full((5,), 1234567), torch.arange(5))
    assert numbers.dtype == torch.float64
    assert [int(x * 2**53) >> 1 for x in numbers.tolist()] == [word >> 12 for word in SPLITMIX]
    assert numbers.tolist() == pytest.approx([word / _WORD for word in SPLITMIX], abs=2.0**-52)


def test_numbers_are_uniform() -> None:
    """Kolmogorov and Smirnov's distance; 1.95 / sqrt(n) is passed once in a thousand seeds."""
    n = 100_000
    for seed, counter in ((torch.full((n,), 3), torch.arange(n)), (torch.arange(n), torch.zeros(n).long())):
        ordered = uniform(seed, counter).sort().values
        ranks = torch.arange(n + 1, dtype=torch.float64) / n
        distance = torch.maximum((ordered - ranks[:-1]).abs().max(), (ordered - ranks[1:]).abs().max())
        assert float(distance) < 1.95 / n**0.5


def test_neighbouring_seeds_and_counters_are_unrelated() -> None:
    n = 100_000
    one = uniform(torch.full((n,), 8), torch.arange(n))
    other_seed = uniform(torch.full((n,), 9), torch.arange(n))
    next_counter = uniform(torch.full((n,), 8), torch.arange(n) + 1)
    for other in (other_seed, next_counter):
        correlation = float(torch.corrcoef(torch.stack([one, other]))[0, 1])
        assert abs(correlation) < 4 / n**0.5


def seed_whose_first_output_is(word: int) -> int:
    """SplitMix64 backwards: each of its steps is a bijection of 64-bit words."""

    def unshift(z: int, bits: int) -> int:
        result = z
        for _ in range(64 // bits):
            result = z ^ (result >> bits)
        return result

    z = unshift(word, 31) * pow(0x94D049BB133111EB, -1, _WORD) % _WORD
    z = unshift(z, 27) * pow(0xBF58476D1CE4E5B9, -1, _WORD) % _WORD
    return (unshift(z, 30) - 0x9E3779B97F4A7C15) % _WORD


@pytest.mark.parametrize("word", [0, 1, _WORD // 2, _WORD - 2**12, _WORD - 1])
def test_no_number_is_0_or_1(word: int) -> None:
    assert seed_whose_first_output_is(SPLITMIX[0]) == 1234567
    seed = signed(seed_whose_first_output_is(word))
    number = float(uniform(torch.tensor([seed]), torch.tensor([0])))
    assert number == pytest.approx(word / _WORD, abs=2.0**-52)
    assert 0 < number < 1


def test_a_number_depends_on_its_own_seed_and_counter_alone() -> None:
    seed = torch.tensor([draw_seed("a", i) for i in range(50)])
    counter = torch.arange(50) * 7
    whole = uniform(seed, counter)
    order = torch.tensor(random.Random(0).sample(range(50), 50))
    assert torch.equal(uniform(seed[order], counter[order]), whole[order])


def test_purposes_have_seeds_of_their_own() -> None:
    parts = [0, 1, "0", "1", "rollout", "evaluate", "01", ""]
    purposes = [p for size in (1, 2, 3) for p in itertools.product(parts, repeat=size)]
    seeds = {draw_seed(*purpose) for purpose in purposes}
    assert len(seeds) == len(purposes)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_seed_is_the_same_on_every_machine() -> None:
    # b2sum -l 64 of int:0, str:rollout, int:1, str:gsm8k/17, int:3 joined by \x1f, read little-endian.
    assert draw_seed(0, "rollout", 1, "gsm8k/17", 3) == 0x06825A294248AFE6 >> 1
