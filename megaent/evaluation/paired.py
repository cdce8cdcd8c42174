"""Two evaluations of the same prompts: how far apart they are, and how likely that is by chance alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from megaent.report.interval import mean_of

_MOST_STATES = 2**24  # of the exact distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """``difference`` is the mean over shared prompts, ours minus the base's."""

    difference: float
    low: float | None  # 95 % interval of Student's t over prompts; None for a single prompt
    high: float | None
    p_value: float | None  # two-sided, exact, of the sign-flip test; None where that has too many states
    prompts: int


def paired(ours: Mapping[str, Fraction], base: Mapping[str, Fraction]) -> Paired | None:
    """Of prompts by id, each with its share of correct responses; None where no prompt is shared.

    The test asks how often the sum of differences would be as far from 0 if each prompt's difference had
    either sign with probability 1/2 (Fisher 1935, "The design of experiments", 21).
    """
    differences = [share - base[name] for name, share in ours.items() if name in base]
    if not differences:
        return None
    mean, half, count = mean_of([float(difference) for difference in differences])
    return Paired(
        difference=mean,
        low=None if half is None else mean - half,
        high=None if half is None else mean + half,
        p_value=sign_flip_p_value(differences),
        prompts=count,
    )


def sign_flip_p_value(differences: list[Fraction]) -> float | None:
    """P(|sum of ±d| >= |sum of d|) over all signs, by the distribution of the sum on its lattice."""
    unit = math.lcm(*(d.denominator for d in differences))
    steps = [abs(int(d * unit)) for d in differences if d]
    if sum(steps) >= _MOST_STATES:
        return None
    reached = abs(int(sum(differences) * unit))
    # Entry i is the chance that those with a plus sum to i; the sum with signs is then 2 i - total.
    chance = np.ones(1)
    for step in steps:
        chance = np.pad(chance, (0, step)) / 2 + np.pad(chance, (step, 0)) / 2
    sums = 2 * np.arange(len(chance)) - sum(steps)
    return min(1.0, float(chance[abs(sums) >= reached].sum()))
