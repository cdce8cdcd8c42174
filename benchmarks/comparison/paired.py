"""Paired differences over seeds: what was seen, how sure that is among many arms, what could be seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

from megaent.report.interval import student_quantile, student_two_sided

ALPHA, POWER = 0.05, 0.8


@dataclass(frozen=True)
class Difference:
    """Mean over ``seeds`` pairs, the half-width of its simultaneous 95 % interval, and the p-value alone."""

    mean: float
    half_width: float
    p: float
    seeds: int


def difference(values: Sequence[float], comparisons: int) -> Difference:
    """Student's paired t, two-sided; the interval holds with its siblings (Bonferroni).

    Differences that are all the same leave no doubt: a half-width of 0, and a p of 0, or of 1 if they are 0.
    """
    if len(values) < 2:
        raise ValueError(f"a paired difference needs at least 2 seeds, got {len(values)}")
    freedom = len(values) - 1
    mean, error = fmean(values), stdev(values) / math.sqrt(len(values))
    half = student_quantile(1 - ALPHA / comparisons / 2, freedom) * error
    p = student_two_sided(mean / error, freedom) if error else float(mean == 0)
    return Difference(mean, half, p, len(values))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values: the k-th smallest times the number not smaller, never falling, at most 1.

    Holm 1979, "A simple sequentially rejective multiple test procedure". Below ``ALPHA`` they are real at a
    family-wise error of ``ALPHA``, whatever their dependence.
    """
    adjusted: dict[str, float] = {}
    highest = 0.0
    for smaller, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = max(highest, min(1.0, p_values[name] * (len(p_values) - smaller)))
        adjusted[name] = highest
    return adjusted


def smallest_difference(deviation: float, seeds: int, comparisons: int = 1) -> float:
    """The mean difference, in ``deviation``'s unit, that ``seeds`` pairs show with probability ``POWER``.

    ``deviation`` is that of the paired differences, the test the two-sided paired t at
    ``ALPHA / comparisons``.
    """
    low, high = 0.0, 20.0
    for _ in range(40):
        middle = (low + high) / 2
        if power(middle, seeds, ALPHA / comparisons) < POWER:
            low = middle
        else:
            high = middle
    return high * deviation / math.sqrt(seeds)


def power(shift: float, seeds: int, alpha: float) -> float:
    """P(|T| > t) of the noncentral t of ``seeds - 1`` degrees of freedom and noncentrality ``shift``.

    T is (Z + shift) / S with S the root of a chi-square over its freedom; the integral over S is a sum over
    its middle, wide enough and fine enough for six digits.
    """
    freedom, normal, cells = seeds - 1, NormalDist(), 2000
    critical = student_quantile(1 - alpha / 2, freedom)
    highest = 1 + 8 / math.sqrt(freedom)
    width = highest / cells
    log_scale = math.log(2) + freedom / 2 * math.log(freedom / 2) - math.lgamma(freedom / 2)
    total = 0.0
    for cell in range(cells):
        s = (cell + 0.5) * width
        density = math.exp(log_scale + (freedom - 1) * math.log(s) - freedom * s * s / 2)
        beyond = normal.cdf(shift - critical * s) + normal.cdf(-shift - critical * s)
        total += density * beyond * width
    return total
