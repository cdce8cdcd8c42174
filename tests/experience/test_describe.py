"""What is reported of a batch, against numpy on the same tokens."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.builders import group, masked, on_replicas, scored

from megaent.experience.describe import NUM_BINS, describe, entropy_histogram, histogram_edges
from megaent.types import Alone, Experience

VOCAB = 50
GROUPS = [
    group(
        i,
        list(np.random.default_rng(i).integers(0, 2, 8)),
        list(np.random.default_rng(i + 50).integers(1, 40, 8)),
    )
    for i in range(12)
] + [group(12, [0, 0], [3, 4]), group(13, [1, 1], [9, 2])]


def batch_of(groups: list) -> Experience:
    return masked(scored(groups, vocab_size=VOCAB), every=7)


def test_means_are_numpy_s() -> None:
    batch = batch_of(GROUPS)
    metrics, _ = describe(batch, Alone(), vocab_size=VOCAB, version=3)
    reward, length = batch.reward.numpy(), batch.length.numpy()
    assert batch.log_prob_old is not None
    assert batch.entropy is not None
    mismatch = (batch.log_prob_old - batch.log_prob_engine).double().numpy()
    correct = [reward[batch.group.numpy() == p] > 0 for p in range(len(GROUPS))]
    expected = {
        "reward/mean": reward.mean(),
        "reward/std": reward.std(),
        "accuracy/mean": (reward > 0).mean(),
        "accuracy/solved_none": np.mean([not c.any() for c in correct]),
        "accuracy/solved_all": np.mean([c.all() for c in correct]),
        "length/mean": length.mean(),
        "length/max": length.max(),
        "length/truncated": (length >= 9).mean(),
        "entropy/mean": batch.entropy.numpy()[batch.mask.numpy()].astype(np.float64).mean(),
        "mismatch/mean_abs": np.abs(mismatch).mean(),
        "mismatch/max_abs": np.abs(mismatch).max(),
        "mismatch/k3": (np.exp(mismatch) - mismatch - 1).mean(),
        "tokens/response": length.sum(),
        "tokens/prompt": 3 * len(reward),  # every prompt has three tokens, and every response carries it
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-9)
    assert 0 < expected["accuracy/solved_none"] < 1, "the batch has both kinds of groups"


@pytest.mark.parametrize("percent", [10, 50, 90])
def test_quantiles_are_numpy_s_within_a_bin(percent: int) -> None:
    batch = batch_of(GROUPS)
    metrics, _ = describe(batch, Alone(), vocab_size=VOCAB, version=3)
    assert batch.entropy is not None
    exact = np.quantile(batch.entropy[batch.mask].double().numpy(), percent / 100, method="inverted_cdf")
    edges = histogram_edges(VOCAB).numpy()
    place = int(np.searchsorted(edges, exact, side="right")) - 1
    assert edges[place] <= metrics[f"entropy/p{percent}"] <= edges[place + 1]


def test_the_share_of_the_top_fifth_is_that_of_the_sorted_tokens() -> None:
    batch = batch_of(GROUPS)
    metrics, _ = describe(batch, Alone(), vocab_size=VOCAB, version=3)
    assert batch.entropy is not None
    ordered = np.sort(batch.entropy[batch.mask].double().numpy())[::-1]
    exact = ordered[: round(0.2 * ordered.size)].sum() / ordered.sum()
    assert metrics["entropy/top20_share"] == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("entropy", [1e-3, 1.0, math.log(VOCAB)])
def test_of_equal_entropies_a_fifth_of_the_tokens_holds_a_fifth(entropy: float) -> None:
    batch = batch_of(GROUPS)
    assert batch.entropy is not None
    batch = replace(batch, entropy=torch.full_like(batch.entropy, entropy))
    metrics, _ = describe(batch, Alone(), vocab_size=VOCAB, version=3)
    assert metrics["entropy/top20_share"] == pytest.approx(0.2, abs=0.01)


def test_two_replicas_describe_as_one() -> None:
    metrics, histogram = describe(batch_of(GROUPS), Alone(), vocab_size=VOCAB, version=3)
    for cut in (1, 7, 13):
        parts = [batch_of(GROUPS[:cut]), batch_of(GROUPS[cut:])]
        for found, counts in on_replicas(lambda b, r: describe(b, r, vocab_size=VOCAB, version=3), parts):
            assert found == pytest.approx(metrics, rel=1e-9)
            assert torch.equal(counts, histogram)


def test_an_empty_replica_changes_nothing() -> None:
    metrics, histogram = describe(batch_of(GROUPS), Alone(), vocab_size=VOCAB, version=3)
    for found, counts in on_replicas(
        lambda b, r: describe(b, r, vocab_size=VOCAB, version=3), [batch_of(GROUPS), scored([])]
    ):
        assert found == pytest.approx(metrics, rel=1e-12)
        assert torch.equal(counts, histogram)


def test_an_empty_batch_has_finite_numbers() -> None:
    metrics, histogram = describe(scored([]), Alone(), vocab_size=VOCAB, version=3)
    assert all(math.isfinite(value) for value in metrics.values())
    assert float(histogram.sum()) == 0


def test_every_entropy_falls_between_the_borders_of_its_bin() -> None:
    edges = histogram_edges(VOCAB)
    assert edges.numel() == NUM_BINS + 1
    assert float(edges[-1]) == pytest.approx(math.log(VOCAB), rel=1e-15)
    for place in (0, 1, 17, NUM_BINS - 1):
        middle = (edges[place] + edges[place + 1]) / 2
        assert entropy_histogram(middle[None], VOCAB).nonzero().tolist() == [[place]]
    odd = torch.tensor([-1e-9, 0.0, math.log(VOCAB), math.log(VOCAB) * 1.001])  # rounding may leave the range
    counts = entropy_histogram(odd, VOCAB)
    assert (float(counts[0]), float(counts[-1])) == (2.0, 2.0)
