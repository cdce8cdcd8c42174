"""Statistics of an evaluation: unbiased estimates, and an interval that knows which responses are siblings.

Responses to one prompt are alike, so the prompt is the unit of chance: P prompts with G responses each
are P observations and not P * G. Every function takes ``correct_PG`` (P prompts, G responses) and is pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

import torch
from torch import Tensor

from megaent.errors import NumericsError
from megaent.evaluation.subsets import all_are_correct, deviation, one_is_correct
from megaent.report.interval import CONFIDENCE, mean_of
from megaent.types import Experience


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSummary:
    """What one evaluation says; no field is ever NaN."""

    accuracy: float  # avg@G
    accuracy_low: float  # 95 % interval of the accuracy over prompts like these
    accuracy_high: float
    mean_length: float  # tokens of a response
    mean_entropy: float  # nats per response token
    mean_first_entropy: float  # nats, of a response's first token: how open the choice of a strategy is
    pass_at_8: float | None  # None where a prompt has fewer than 8 responses
    worst_at_8: float | None  # None likewise
    num_prompts: int
    group_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptOutcome:
    """What an evaluation keeps of one prompt: a few numbers, so that they can be gathered from everywhere."""

    split: str
    correct: tuple[bool, ...]  # [G]
    length: tuple[int, ...]  # [G] tokens
    entropy: float  # nats, summed over the tokens of all its responses
    first_entropy: float  # nats, summed over the first tokens of its responses


def prompt_outcomes(batch: Experience) -> list[PromptOutcome]:
    """One outcome per prompt of a scored batch, in its order."""
    if batch.entropy is None:
        raise ValueError("an evaluation needs a scored batch: entropy is missing; call score first")
    entropy_T = batch.entropy.double()
    entropy_S = torch.zeros(batch.num_responses, dtype=torch.float64)
    entropy_S.index_add_(0, batch.owner, entropy_T)
    first_S = torch.zeros(batch.num_responses, dtype=torch.float64)
    first_S.index_add_(0, batch.owner, torch.where(batch.position == 0, entropy_T, 0.0))
    outcomes = []
    for number, prompt in enumerate(batch.prompts):
        mine = batch.group == number
        outcomes.append(
            PromptOutcome(
                split=prompt.split,
                correct=tuple(batch.correct[mine].tolist()),
                length=tuple(batch.length[mine].tolist()),
                entropy=float(entropy_S[mine].sum()),
                first_entropy=float(first_S[mine].sum()),
            )
        )
    return outcomes


def summarise(outcomes: Sequence[PromptOutcome]) -> EvaluationSummary:
    """The summary of prompts with equally many responses."""
    entropy = sum(outcome.entropy for outcome in outcomes)
    if not math.isfinite(entropy):
        raise NumericsError(
            f"the entropy of an evaluation must be finite, got {entropy}; look at the last update's "
            "grad/norm and loss"
        )
    correct_PG = _correctness(outcomes)
    low, high = accuracy_interval(correct_PG)
    group_size = correct_PG.shape[1]
    tokens = sum(sum(outcome.length) for outcome in outcomes)
    begun = sum(length > 0 for outcome in outcomes for length in outcome.length)
    return EvaluationSummary(
        accuracy=avg_at_k(correct_PG),
        accuracy_low=low,
        accuracy_high=high,
        mean_length=tokens / correct_PG.numel(),
        mean_entropy=entropy / max(tokens, 1),
        mean_first_entropy=sum(outcome.first_entropy for outcome in outcomes) / max(begun, 1),
        pass_at_8=pass_at_k(correct_PG, 8) if group_size >= 8 else None,
        worst_at_8=worst_at_k(correct_PG, 8) if group_size >= 8 else None,
        num_prompts=len(outcomes),
        group_size=group_size,
    )


def by_split(outcomes: Sequence[PromptOutcome]) -> dict[str, list[PromptOutcome]]:
    """The outcomes of each split, in order of its name, to be summarised one by one."""
    splits: dict[str, list[PromptOutcome]] = {split: [] for split in sorted({o.split for o in outcomes})}
    for outcome in outcomes:
        splits[outcome.split].append(outcome)
    return splits


# ---------------------------------------------------------------- of k responses


def avg_at_k(correct_PG: Tensor) -> float:
    """Share of correct responses; k is all G of them."""
    num_correct_P, group_size = _counts(correct_PG)
    return sum(num_correct_P) / (len(num_correct_P) * group_size)


def pass_at_k(correct_PG: Tensor, k: int) -> float:
    """Chance that at least one of k responses is correct, mean over prompts; unbiased for k drawn anew."""
    num_correct_P, group_size = _counts(correct_PG)
    _require_k(k, group_size)
    return fmean(one_is_correct(group_size, c, k) for c in num_correct_P)


def worst_at_k(correct_PG: Tensor, k: int) -> float:
    """Chance that all of k responses are correct, mean over prompts; unbiased like ``pass_at_k``.

    It equals the expected least reward of k responses where a reward is 1 or 0.
    """
    num_correct_P, group_size = _counts(correct_PG)
    _require_k(k, group_size)
    return fmean(all_are_correct(group_size, c, k) for c in num_correct_P)


def std_at_k(correct_PG: Tensor) -> float:
    """How much siblings disagree: mean over prompts of the standard deviation; k is all G of them."""
    num_correct_P, group_size = _counts(correct_PG)
    return fmean(deviation(group_size, c, group_size) for c in num_correct_P)


# ---------------------------------------------------------------- the interval


def accuracy_interval(correct_PG: Tensor) -> tuple[float, float]:
    """95 % interval of the accuracy, clustered by prompt.

    Student's interval of the prompts' own accuracies m_1 ... m_P,
    mean(m) +- t(0.975, P - 1) * std(m) / sqrt(P), clipped to [0, 1]; std divides by P - 1.

    Where all m are equal (or P = 1) that width would be 0, as if ten solved prompts proved that all are.
    Then it is Wilson's interval with P observations: the centre (p + z^2/2P) / (1 + z^2/P) and half-width
    z sqrt(p (1-p)/P + z^2/4P^2) / (1 + z^2/P), z = 1.96.
    Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    num_correct_P, group_size = _counts(correct_PG)
    return mean_interval([correct / group_size for correct in num_correct_P])


def mean_interval(share_P: Sequence[float]) -> tuple[float, float]:
    """The same of any numbers in [0, 1], one a prompt."""
    mean, half_width, num_prompts = mean_of(share_P)
    if half_width is None or len(set(share_P)) == 1:
        return _wilson(mean, num_prompts)
    return max(0.0, mean - half_width), min(1.0, mean + half_width)


def _wilson(mean: float, count: int) -> tuple[float, float]:
    z2_per_count = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) ** 2 / count
    centre = mean + z2_per_count / 2
    half_width = math.sqrt(z2_per_count * mean * (1 - mean) + z2_per_count**2 / 4)
    scale = 1 + z2_per_count
    # At 0 and 1 an end is exact, up to rounding.
    return max(0.0, (centre - half_width) / scale), min(1.0, (centre + half_width) / scale)


# ---------------------------------------------------------------- what comes in


def _counts(correct_PG: Tensor) -> tuple[list[int], int]:
    """Correct responses of each prompt, and responses a prompt."""
    if correct_PG.dtype != torch.bool or correct_PG.ndim != 2 or correct_PG.numel() == 0:
        raise ValueError(
            "correct must be a bool tensor [P prompts, G responses] with at least one of each, got "
            f"{correct_PG.dtype} {list(correct_PG.shape)}"
        )
    return correct_PG.sum(dim=1).tolist(), correct_PG.shape[1]


def _require_k(k: int, group_size: int) -> None:
    if not 1 <= k <= group_size:
        raise ValueError(f"k must lie in 1 ... {group_size}, the responses a prompt has, got {k}")


def _correctness(outcomes: Sequence[PromptOutcome]) -> Tensor:
    sizes = {len(outcome.correct) for outcome in outcomes}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"an evaluation needs prompts with equally many responses, got {len(outcomes)} prompts with "
            f"{sorted(sizes)} responses"
        )
    return torch.tensor([outcome.correct for outcome in outcomes], dtype=torch.bool)
