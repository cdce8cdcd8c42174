"""REINFORCE++-baseline: rewards minus the group's mean, then standardised over the whole batch.

Hu 2025, "REINFORCE++", arXiv:2501.03262, the variant for several responses a prompt. The group's mean is
the baseline; the scale is one for all prompts, that of all trained tokens of the batch on all replicas:

    c = r - mean of the group        A = (c - mean of c) / sqrt(variance of c + 1e-8)

Departures: no KL term; the clip and its dual are GRPO's. Combine with grpo for its other options.
"""

from __future__ import annotations

from megaent.objective.advantages import BatchWhitened
from megaent.objective.compose import Part


def reinforce_pp_baseline() -> Part:
    """No options of its own."""
    return Part(advantage=BatchWhitened(minus_group_mean=True))
