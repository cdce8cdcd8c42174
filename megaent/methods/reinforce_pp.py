"""REINFORCE++: rewards standardised over the whole batch instead of within a group.

Hu 2025, "REINFORCE++", arXiv:2501.03262. With a discount of 1 every token has its response's reward;
these are brought to mean 0 and variance 1 over all trained tokens of the batch, on all replicas:

    A = (r - mean) / sqrt(variance + 1e-8)        unbiased variance

so a group whose rewards are equal still teaches.

Departures: no KL in the reward; the clip and its dual are GRPO's. Combine with grpo for its other
options.
"""

from __future__ import annotations

from megaent.objective.advantages import BatchWhitened
from megaent.objective.compose import Part


def reinforce_pp() -> Part:
    """No options of its own."""
    return Part(advantage=BatchWhitened())
