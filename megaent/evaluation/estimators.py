"""What k responses to one prompt would be worth, from the n that were scored: unbiased, exact, or not known.

Each estimator is the mean over all C(n, k) subsets of the n responses, in integers until the last
division. With fewer than k scored responses the answer is None: neither 0 nor 1 is a fair guess.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean

from megaent.evaluation.statistics import mean_interval
from megaent.evaluation.subsets import all_are_correct, deviation, one_is_correct


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """A prompt's scored responses; one that no verdict was reached on is not among them."""

    correct: tuple[bool, ...]
    reward: tuple[float, ...]
    answer: tuple[str, ...]  # equal answers are equal texts; "" where none could be read

    def __len__(self) -> int:
        return len(self.correct)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over prompts with its 95 % interval; None where it is known of no prompt."""

    value: float | None
    low: float | None
    high: float | None
    known: int  # prompts with k scored responses
    prompts: int


Estimator = Callable[[Answers, int], float]


def estimate(of: Estimator, prompts: Sequence[Answers], k: int) -> Estimate:
    """Over the prompts with k scored responses; the interval takes each prompt for one observation."""
    if k < 1:
        raise ValueError(f"k must be 1 or more, got {k}")
    values = [of(answers, k) for answers in prompts if len(answers) >= k]
    low, high = _interval(values) if values else (None, None)
    return Estimate(
        value=fmean(values) if values else None, low=low, high=high, known=len(values), prompts=len(prompts)
    )


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """Within 0 to 1, or as far as the values go: a sum of verifiers may pay more than 1."""
    least, most = min(0.0, *values), max(1.0, *values)
    low, high = mean_interval([(value - least) / (most - least) for value in values])
    return least + low * (most - least), least + high * (most - least)


# ---------------------------------------------------------------- of one prompt, n >= k


def avg_at_k(answers: Answers, k: int) -> float:
    """Mean share of correct responses among k: c / n."""
    return sum(answers.correct) / len(answers)


def pass_at_k(answers: Answers, k: int) -> float:
    """Chance that one of k is correct: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374)."""
    return one_is_correct(len(answers), sum(answers.correct), k)


def pass_hat_k(answers: Answers, k: int) -> float:
    """pass^k, the chance that all k are correct: C(c, k) / C(n, k) (Yao et al. 2024, arXiv 2406.12045)."""
    return all_are_correct(len(answers), sum(answers.correct), k)


def worst_at_k(answers: Answers, k: int) -> float:
    """Expected least reward of k; where rewards are 1 and 0 it is pass^k."""
    ascending = sorted(answers.reward)
    ways = (math.comb(len(answers) - place, k - 1) for place in range(1, len(answers) + 1))
    return math.fsum(r * w for r, w in zip(ascending, ways, strict=True)) / math.comb(len(answers), k)


def std_at_k(answers: Answers, k: int) -> float:
    """Expected standard deviation of k verdicts, the sum of squares divided by k; 1/2 at most."""
    return deviation(len(answers), sum(answers.correct), k)


def maj_at_k(answers: Answers, k: int) -> float:
    """Chance that the commonest answer of k is correct; the first of tied answers is drawn by lot.

    Correct responses count as one answer. A response without an answer casts no vote; k of those are wrong.
    """
    right = sum(answers.correct)
    wrong = Counter(a for a, correct in zip(answers.answer, answers.correct, strict=True) if not correct)
    silent = wrong.pop("", 0)
    total = Fraction(0)
    for votes in range(1, min(right, k) + 1):
        for (size, ties), ways in _below(tuple(wrong.values()), votes, k - votes).items():
            filled = math.comb(right, votes) * ways * math.comb(silent, k - votes - size)
            total += Fraction(filled, 1 + ties)
    return float(total / math.comb(len(answers), k))


def _below(classes: tuple[int, ...], most: int, room: int) -> dict[tuple[int, int], int]:
    """Ways to choose from ``classes`` at most ``most`` of each: {(chosen in all, classes at most): ways}."""
    ways = {(0, 0): 1}
    for size in classes:
        longer: Counter[tuple[int, int]] = Counter()
        for (chosen, ties), count in ways.items():
            for votes in range(min(size, most, room - chosen) + 1):
                longer[chosen + votes, ties + (votes == most)] += count * math.comb(size, votes)
        ways = dict(longer)
    return ways


ESTIMATORS: dict[str, Estimator] = {
    "avg@k": avg_at_k,
    "pass@k": pass_at_k,
    "maj@k": maj_at_k,
    "pass^k": pass_hat_k,
    "worst@k": worst_at_k,
    "std@k": std_at_k,
}
