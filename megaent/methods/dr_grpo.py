"""Dr. GRPO: GRPO without its two divisions.

Liu et al. 2025, "Understanding R1-Zero-Like Training", arXiv:2503.20783. The advantage is the reward
minus the group's mean, not divided by the deviation, which favours very easy and very hard prompts; the
loss of a response is the sum over its tokens divided by a constant, not by its length, which favours
short right and long wrong responses:

    loss = sum over the tokens of the minibatch / (responses * constant_length)

Departures: verl's form leaves out the division by the number of responses; the clip and its dual are
GRPO's. Combine with grpo for its other options.
"""

from __future__ import annotations

from megaent.objective.advantages import GroupRelative
from megaent.objective.aggregations import ConstantLength
from megaent.objective.checks import require
from megaent.objective.compose import Part


def dr_grpo(*, constant_length: int = 4096) -> Part:
    """``constant_length`` tokens; the paper takes the longest response allowed."""
    require(constant_length > 0, "constant_length", "be above 0 tokens", constant_length)
    return Part(advantage=GroupRelative(normalize=False), aggregation=ConstantLength(length=constant_length))
