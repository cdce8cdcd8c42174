"""What a person wants to know of a batch, over every replica: rewards, lengths, entropies, mismatch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from megaent.experience.pack import pack
from megaent.types import Experience, Group, Metrics, Replicas, Shared


class Layout(Replicas, Protocol):
    def share(self, value: Shared | None) -> Shared:
        """The leader's ``value`` on every rank of its replica."""
        ...


NUM_BINS = 512  # of the entropy histogram, equal in the square root of the entropy


def describe(
    batch: Experience, replicas: Replicas, *, vocab_size: int, version: int
) -> tuple[Metrics, Tensor]:
    """Metrics of a scored batch and its entropy histogram; see docs/metrics.md.

    ``version`` is that of the weights that the step began with.

    Two reductions whatever the world size: one sum and one maximum. Quantiles are read off the
    histogram, whose bins are equal in sqrt(H), so near 0 they resolve a millionth of ``ln V``.
    """
    assert batch.log_prob_old is not None, "describe needs a scored batch"
    assert batch.entropy is not None, "describe needs a scored batch"
    mismatch_T = _mismatch(batch)
    histogram = entropy_histogram(batch.entropy[batch.mask], vocab_size)
    age_S = torch.zeros(0) if batch.version is None else (version - batch.version).double()
    sums = _response_sums(batch) | _token_sums(batch, mismatch_T) | {"age": float(age_S.sum())}
    total = replicas.sum(torch.cat([torch.tensor(list(sums.values()), dtype=torch.float64), histogram]))
    values = dict(zip(sums, total[: len(sums)].tolist(), strict=True))
    histogram = total[len(sums) :]
    largest = replicas.max(
        torch.tensor([_largest(batch.length.double()), _largest(mismatch_T.abs()), _largest(age_S)])
    )
    longest, worst, oldest = largest.tolist()
    metrics = _response_metrics(values, longest) | _token_metrics(values, worst, oldest)
    return metrics | _entropy_shape(histogram, vocab_size), histogram


def describe_sampled(groups: Sequence[Group] | None, layout: Layout) -> Metrics:
    """The metrics of responses alone, of every graded group that was drawn; None on peers of a leader.

    Three small exchanges whatever the world size.
    """
    batch = None if groups is None else pack(groups)
    mine = None if batch is None else (_response_sums(batch), _largest(batch.length.double()))
    sums, longest = layout.share(mine)
    total = layout.sum(torch.tensor(list(sums.values()), dtype=torch.float64))
    most = float(layout.max(torch.tensor(longest, dtype=torch.float64)))
    return _response_metrics(dict(zip(sums, total.tolist(), strict=True)), most)


def _mismatch(batch: Experience) -> Tensor:
    """[T] trainer minus engine; 0 where the engine drew at a temperature that the trainer does not use."""
    assert batch.log_prob_old is not None, "describe needs a scored batch"
    mismatch_T = (batch.log_prob_old - batch.log_prob_engine).double()
    return mismatch_T if batch.is_second is None else mismatch_T * ~batch.is_second[batch.owner]


def _response_sums(batch: Experience) -> dict[str, float]:
    correct_P = torch.bincount(batch.group, weights=batch.correct.double(), minlength=len(batch.prompts))
    size_P = torch.bincount(batch.group, minlength=len(batch.prompts))
    return {
        "responses": float(batch.num_responses),
        "groups": float(len(batch.prompts)),
        "tokens": float(batch.num_tokens),
        "reward": float(batch.reward.sum()),
        "reward2": float(batch.reward.square().sum()),
        "correct": float(batch.correct.sum()),
        "none": float((correct_P == 0).sum()),
        "all": float((correct_P == size_P).sum()),
        "truncated": float(batch.truncated.sum()),
    }


def _token_sums(batch: Experience, mismatch_T: Tensor) -> dict[str, float]:
    assert batch.entropy is not None, "describe needs a scored batch"
    return {
        "trained": float(batch.mask.sum()),
        "prompt": float(sum(len(batch.prompts[group].tokens) for group in batch.group.tolist())),
        "entropy": float(batch.entropy[batch.mask].double().sum()),
        "abs": float(mismatch_T.abs().sum()),
        "k3": float((mismatch_T.clamp(-20, 20).exp() - mismatch_T - 1).sum()),
    }


def _largest(value: Tensor) -> float:
    return float(value.max()) if value.numel() else 0.0


def _response_metrics(values: dict[str, float], longest: float) -> Metrics:
    responses, groups = max(values["responses"], 1.0), max(values["groups"], 1.0)
    mean = values["reward"] / responses
    return {
        "reward/mean": mean,
        "reward/std": math.sqrt(max(values["reward2"] / responses - mean * mean, 0.0)),
        "accuracy/mean": values["correct"] / responses,
        "accuracy/solved_none": values["none"] / groups,
        "accuracy/solved_all": values["all"] / groups,
        "length/mean": values["tokens"] / responses,
        "length/max": longest,
        "length/truncated": values["truncated"] / responses,
    }


def _token_metrics(values: dict[str, float], worst: float, oldest: float) -> Metrics:
    tokens, trained = max(values["tokens"], 1.0), max(values["trained"], 1.0)
    return {
        "entropy/mean": values["entropy"] / trained,
        "mismatch/mean_abs": values["abs"] / tokens,
        "mismatch/max_abs": worst,
        "mismatch/k3": values["k3"] / tokens,
        "staleness/mean": values["age"] / max(values["responses"], 1.0),
        "staleness/max": oldest,
        "tokens/response": values["tokens"],
        "tokens/prompt": values["prompt"],
    }


def entropy_histogram(entropy_N: Tensor, vocab_size: int) -> Tensor:
    """[B] counts, fp64, B = NUM_BINS; bin b holds ``ln V (b / B)^2 <= H < ln V ((b + 1) / B)^2``."""
    scaled_N = (entropy_N.double().clamp(min=0) / math.log(max(vocab_size, 2))).sqrt() * NUM_BINS
    return torch.bincount(scaled_N.long().clamp(max=NUM_BINS - 1), minlength=NUM_BINS).double()


def histogram_edges(vocab_size: int) -> Tensor:
    """[NUM_BINS + 1] borders of the bins, nats."""
    return torch.linspace(0, 1, NUM_BINS + 1, dtype=torch.float64).square() * math.log(max(vocab_size, 2))


def _entropy_shape(histogram: Tensor, vocab_size: int) -> Metrics:
    edges = histogram_edges(vocab_size)
    total = float(histogram.sum())
    if total == 0:
        return {"entropy/p10": 0.0, "entropy/p50": 0.0, "entropy/p90": 0.0, "entropy/top20_share": 0.0}
    cumulated = torch.cat([histogram.new_zeros(1), histogram.cumsum(0)])
    quantiles = {
        f"entropy/p{percent}": _quantile(edges, cumulated, percent / 100 * total) for percent in (10, 50, 90)
    }
    mass = histogram * (edges[1:] + edges[:-1]) / 2
    mass_above = torch.cat([mass.new_zeros(1), mass.flip(0).cumsum(0)])
    count_above = torch.cat([mass.new_zeros(1), histogram.flip(0).cumsum(0)])
    share = _quantile(mass_above, count_above, 0.2 * total) / max(float(mass.sum()), 1e-300)
    return quantiles | {"entropy/top20_share": share}


def _quantile(edges: Tensor, cumulated: Tensor, count: float) -> float:
    """Linear within the bin in which the count is reached."""
    place = min(int((cumulated[1:] < count).sum()), NUM_BINS - 1)
    inside = float(cumulated[place + 1] - cumulated[place])
    share = (count - float(cumulated[place])) / inside if inside else 0.0
    return float(edges[place] + share * (edges[place + 1] - edges[place]))
