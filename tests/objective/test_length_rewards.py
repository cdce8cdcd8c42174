"""Rewards that look at length: closed forms, worked cases and the order they put responses in."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from support.golden_inputs import experience, seen

from megaent.objective.length_rewards import Cosine, LinearLength, Overlong, SigmoidLength, overlong
from megaent.objective.method import RewardTerm

PIECES = [
    Overlong(max_length=20, buffer=8),
    LinearLength(coef=0.5, max_length=20),
    LinearLength(coef=0.5, max_length=20, only_correct=True),
    SigmoidLength(alpha=0.4),
    Cosine(max_length=20),
]


def rewards(piece: RewardTerm, lengths: list[int], given: list[float], **more) -> list[float]:
    batch = experience(lengths, given, **more)
    return piece(batch.reward, seen(batch)).tolist()


def test_the_last_tokens_cost() -> None:
    piece = Overlong(max_length=20480, buffer=4096)
    lengths = [1, 16000, 16384, 18432, 20480, 24576]
    found = rewards(piece, lengths, [1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    assert found == [1.0, 0.0, 1.0, 0.5, -1.0, -1.0]
    half = rewards(Overlong(max_length=20480, buffer=4096, factor=0.5), lengths, [0.0] * 6)
    assert half == [0.0, 0.0, 0.0, -0.25, -0.5, -1.0]
    assert overlong(0, 4096, 1.0) == ()


def test_the_naive_penalty_is_linear_and_spares_the_wrong_if_asked() -> None:
    everyone = rewards(LinearLength(coef=0.2, max_length=10), [5, 10, 5], [1.0, 1.0, 0.0])
    assert everyone == pytest.approx([0.9, 0.8, -0.1], abs=1e-12)
    spared = LinearLength(coef=0.2, max_length=10, only_correct=True)
    assert rewards(spared, [5, 10, 5], [1.0, 1.0, 0.0]) == pytest.approx([0.9, 0.8, 0.0], abs=1e-12)


def test_the_sigmoid_penalty_is_numpy_s() -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 50, size=24)
    correct = rng.random(24) < 0.6
    correct[16:] = False  # the last group has no correct response
    groups = np.repeat([0, 1, 2], 8)
    expected = np.zeros(24)
    for p in range(2):
        ok = (groups == p) & correct
        z = (lengths - lengths[ok].mean()) / (lengths[ok].std() + 1e-7)
        expected[ok] = (1 - 0.3 / (1 + np.exp(-z)))[ok]
    found = rewards(
        SigmoidLength(alpha=0.3), lengths.tolist(), correct.astype(float).tolist(), groups=groups.tolist()
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_single_correct_response_pays_half_and_a_cut_one_earns_nothing() -> None:
    assert rewards(SigmoidLength(alpha=0.4), [7, 3], [1.0, 0.0]) == pytest.approx([0.8, 0.0], abs=1e-12)
    assert rewards(SigmoidLength(), [7, 3], [1.0, 1.0], truncated=[True, False])[0] == 0.0


def test_the_cosine_runs_between_its_ends() -> None:
    piece = Cosine(max_length=100)
    found = rewards(piece, [1, 50, 100, 1, 50, 100, 101], [1, 1, 1, 0, 0, 0, 1])
    near = (1 + math.cos(math.pi / 100)) / 2
    assert found == pytest.approx([near, 0.5, 0.0, -near, -0.5, 0.0, -1.0], abs=1e-12)
    cut = rewards(piece, [50, 50], [1, 0], truncated=[True, True])
    assert cut == [-1.0, -1.0]


@pytest.mark.parametrize("piece", PIECES, ids=repr)
def test_a_longer_correct_response_never_earns_more(piece: RewardTerm) -> None:
    lengths = list(range(1, 31))
    found = rewards(piece, lengths, [1.0] * 30)
    assert all(longer <= shorter for shorter, longer in pairwise(found))
    assert found[-1] < found[0]


@pytest.mark.parametrize("piece", PIECES, ids=repr)
def test_a_correct_response_earns_at_least_what_a_wrong_one_of_its_length_does(piece: RewardTerm) -> None:
    for length in range(1, 31):
        right, wrong = rewards(piece, [length, length], [1.0, 0.0])
        assert right >= wrong


@pytest.mark.parametrize("piece", PIECES, ids=repr)
def test_nothing_is_changed_in_place_and_an_empty_share_works(piece: RewardTerm) -> None:
    batch = experience([3, 25], [1.0, 0.0])
    before = batch.reward.clone()
    piece(batch.reward, seen(batch))
    assert torch.equal(batch.reward, before)
    assert rewards(piece, [], []) == []


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Overlong(max_length=100, buffer=101), r"buffer must lie in \[1, 100\], got 101"),
        (lambda: Overlong(max_length=100, buffer=0), r"buffer must lie in"),
        (lambda: LinearLength(coef=-0.1, max_length=5), "coef must be 0 or more, got -0.1"),
        (lambda: LinearLength(coef=0.1, max_length=0), "max_length must be above 0 tokens, got 0"),
        (lambda: SigmoidLength(alpha=1.5), r"alpha must lie in \[0, 1\], got 1.5"),
        (lambda: Cosine(max_length=0), "max_length must be above 0 tokens, got 0"),
    ],
)
def test_a_bad_option_is_refused_by_name(make, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
