"""Student's interval of a mean, for as few observations as there are seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

CONFIDENCE = 0.95


class Mean(NamedTuple):
    """A mean and the half-width of its 95 % interval, None where one observation cannot tell."""

    value: float
    half_width: float | None
    count: int


def mean_of(values: Sequence[float]) -> Mean:
    """``mean +- t(0.975, n - 1) std / sqrt(n)``, std dividing by n - 1; ``values`` holds at least one."""
    if len(values) < 2:
        return Mean(values[0], None, 1)
    error = stdev(values) / math.sqrt(len(values))
    return Mean(fmean(values), student_quantile(0.5 + CONFIDENCE / 2, len(values) - 1) * error, len(values))


def student_quantile(probability: float, freedom: int) -> float:
    """The ``probability``-quantile, at least 0.5, of Student's t with ``freedom`` degrees of freedom."""
    low, high = 0.0, math.pi / 2
    # The distribution is a finite sum in the angle theta = atan(t / sqrt(freedom)); 60 halvings exhaust fp64.
    for _ in range(60):
        middle = (low + high) / 2
        if 0.5 + _student_mass(middle, freedom) / 2 < probability:
            low = middle
        else:
            high = middle
    return math.sqrt(freedom) * math.tan(low)


def student_two_sided(t: float, freedom: int) -> float:
    """The p-value of ``t``: the probability that Student's t of ``freedom`` degrees is as far from 0."""
    return max(0.0, 1 - _student_mass(math.atan(abs(t) / math.sqrt(freedom)), freedom))


def _student_mass(theta: float, freedom: int) -> float:
    """Probability that |t| < sqrt(freedom) tan(theta).

    Abramowitz and Stegun 1964, "Handbook of mathematical functions", 26.7.3 and 26.7.4.
    """
    is_odd = freedom % 2
    term, series = (math.cos(theta) if is_odd else 1.0), 0.0
    for power in range(1 + is_odd, freedom, 2):
        series += term
        term *= math.cos(theta) ** 2 * power / (power + 1)
    series *= math.sin(theta)
    return 2 / math.pi * (theta + series) if is_odd else series
