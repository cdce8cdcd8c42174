"""Advantages against numpy, worked cases and their laws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.builders import group, masked, on_replicas, scored, seen

from megaent.objective.advantages import (
    BatchWhitened,
    GroupRelative,
    LeaveOneOut,
    LengthWeighted,
    QuantileBaseline,
    SignedReward,
)
from megaent.objective.method import Advantage

COMPARED = [
    GroupRelative(),
    GroupRelative(normalize=False),
    LeaveOneOut(),
    LengthWeighted(),
    QuantileBaseline(),
    QuantileBaseline(quantile=0.7, normalize=False),
]
ALL = [*COMPARED, BatchWhitened(), BatchWhitened(minus_group_mean=True), SignedReward()]
RNG = np.random.default_rng(0)
RANDOM = [list(RNG.normal(size=size)) for size in (2, 8, 3, 16)]
LENGTHS = [[int(n) for n in RNG.integers(1, 9, size=len(row))] for row in RANDOM]

every_piece = pytest.mark.parametrize("piece", ALL, ids=repr)
every_comparison = pytest.mark.parametrize("piece", COMPARED, ids=repr)


def advantages(
    piece: Advantage, rewards: list[list[float]], lengths: list[list[int]] | None = None
) -> list[float]:
    sizes = lengths or [[2] * len(row) for row in rewards]
    batch = scored([group(i, row, size) for i, (row, size) in enumerate(zip(rewards, sizes, strict=True))])
    return piece(batch.reward, seen(batch)).tolist()


# ---------------------------------------------------------------- against numpy


@pytest.mark.parametrize("normalize", [True, False])
def test_each_group_is_compared_with_itself(normalize: bool) -> None:
    expected = []
    for values in map(np.array, RANDOM):
        centred = values - values.mean()
        expected += list(centred / (values.std(ddof=1) + 1e-6) if normalize else centred)
    found = advantages(GroupRelative(normalize=normalize), RANDOM)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_leaving_one_out_is_the_mean_of_the_others() -> None:
    expected = [r - np.mean(row[:i] + row[i + 1 :]) for row in RANDOM for i, r in enumerate(row)]
    np.testing.assert_allclose(advantages(LeaveOneOut(), RANDOM), expected, rtol=1e-12, atol=1e-12)


def test_the_baseline_of_opo_is_the_mean_over_tokens() -> None:
    expected = []
    for row, lengths in zip(RANDOM, LENGTHS, strict=True):
        expected += [r - np.mean(np.repeat(row, lengths)) for r in row]
    found = advantages(LengthWeighted(), RANDOM, LENGTHS)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("q", [0.01, 0.25, 0.4, 0.5, 0.75, 0.99])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_quantile_baseline_is_numpy_s_inverted_distribution(q: float, normalize: bool) -> None:
    expected = []
    for values in map(np.array, RANDOM):
        centred = values - np.quantile(values, q, method="inverted_cdf")
        expected += list(centred / (values.std(ddof=1) + 1e-6) if normalize else centred)
    found = advantages(QuantileBaseline(quantile=q, normalize=normalize), RANDOM)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("minus_group_mean", [False, True])
def test_whitened_advantages_have_mean_0_and_variance_1_over_trained_tokens(minus_group_mean: bool) -> None:
    groups = [group(i, *pair) for i, pair in enumerate(zip(RANDOM, LENGTHS, strict=True))]
    batch = masked(scored(groups), every=3)
    found = BatchWhitened(minus_group_mean=minus_group_mean)(batch.reward, seen(batch)).numpy()
    values = np.concatenate([np.array(r) - np.mean(r) * minus_group_mean for r in RANDOM])
    per_token = values[batch.owner.numpy()[batch.mask.numpy()]]
    expected = (values - per_token.mean()) / np.sqrt(per_token.var(ddof=1) + 1e-8)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    trained = found[batch.owner.numpy()[batch.mask.numpy()]]
    assert trained.mean() == pytest.approx(0.0, abs=1e-12)
    assert trained.var(ddof=1) == pytest.approx(1.0, abs=1e-6)


def test_worked_cases() -> None:
    half = 0.8660239037870368
    assert advantages(GroupRelative(), [[1, 0, 0, 1]]) == pytest.approx([half, -half, -half, half], abs=1e-9)
    assert advantages(QuantileBaseline(normalize=False), [[1, 0, 0, 0, 0]]) == [1, 0, 0, 0, 0]
    assert advantages(QuantileBaseline(normalize=False), [[1, 1, 1, 1, 0]]) == [0, 0, 0, 0, -1]
    assert advantages(SignedReward(), [[1, 0, 0.5]]) == [1.0, -1.0, 0.0]


# ---------------------------------------------------------------- laws


@every_comparison
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, -1 / 3, 1e-9, 1e9])
@pytest.mark.parametrize("size", [2, 3, 7, 10])
def test_equal_rewards_teach_nothing(piece: Advantage, reward: float, size: int) -> None:
    assert piece.group_relative
    lengths = [[1, 7, 3, 2, 5, 1, 1, 4, 6, 2][:size], [2, 2]]
    found = advantages(piece, [[reward] * size, [1.0, 0.0]], lengths)
    assert found[:size] == [0.0] * size, "exactly 0, whatever the baseline rounds to"
    assert found[size] > found[size + 1]


@every_comparison
def test_a_group_of_one_has_mean_0_and_deviation_1(piece: Advantage) -> None:
    assert advantages(piece, [[2.0], [1.0, 0.0]])[0] == pytest.approx(2.0, rel=2e-6)


@every_comparison
@pytest.mark.parametrize("shift", [-3.0, 0.5])
def test_a_constant_added_to_every_reward_of_a_group_changes_nothing(piece: Advantage, shift: float) -> None:
    moved = [[r + shift for r in row] for row in RANDOM]
    assert advantages(piece, moved, LENGTHS) == pytest.approx(
        advantages(piece, RANDOM, LENGTHS), rel=1e-9, abs=1e-9
    )


@every_piece
def test_the_better_response_never_has_the_lower_advantage(piece: Advantage) -> None:
    found, first = advantages(piece, RANDOM, LENGTHS), 0
    for row in RANDOM:
        values = np.array(found[first : first + len(row)])
        assert bool((np.diff(values[np.argsort(row)]) >= 0).all())
        first += len(row)


def test_a_group_that_differs_by_little_is_not_blown_up() -> None:
    for piece in (GroupRelative(), QuantileBaseline()):
        assert max(map(abs, advantages(piece, [[0.0, 1e-12]]))) < 1e-5, "eps bounds the division"


@every_piece
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_replicas_find_what_one_finds(piece: Advantage, cut: int) -> None:
    """Cut at 0: one replica has no groups."""
    groups = [group(0, [1, 0, 0], [2, 1, 3]), group(1, [0, 1, 1, 1], [1, 1, 2, 5]), group(2, [1, 1], [4, 4])]
    whole = scored(groups)
    shares = [scored(groups[:cut]), scored(groups[cut:])]
    parts = on_replicas(lambda b, p: piece(b.reward, seen(b, population=p)), shares)
    assert torch.equal(torch.cat(parts), piece(whole.reward, seen(whole)))


@every_piece
def test_an_empty_batch_has_no_advantages(piece: Advantage) -> None:
    assert advantages(piece, []) == []


@pytest.mark.parametrize("reward", [0.0, 0.3])
def test_a_batch_of_equal_rewards_is_not_blown_up_by_whitening(reward: float) -> None:
    found = advantages(BatchWhitened(), [[reward] * 3, [reward]])
    assert found == pytest.approx([0.0] * 4, abs=1e-9)


@pytest.mark.parametrize("quantile", [0.0, 1.0, -0.1])
def test_a_quantile_at_the_ends_is_refused(quantile: float) -> None:
    with pytest.raises(ValueError, match=r"quantile must lie in \(0, 1\), got"):
        QuantileBaseline(quantile=quantile)
