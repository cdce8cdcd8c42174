"""RLOO: each response is compared with the mean of its siblings.

Ahmadian et al. 2024, "Back to Basics: Revisiting REINFORCE Style Optimization", arXiv:2402.14740:

    A = r - mean of the other responses of the group = G / (G - 1) * (r - mean of the group)

Departures: the policy term is GRPO's clipped one (on the first optimizer step of a batch its gradient is
that of REINFORCE) and there is no KL in the reward. Combine with grpo for its other options.
"""

from __future__ import annotations

from megaent.objective.advantages import LeaveOneOut
from megaent.objective.compose import Part


def rloo() -> Part:
    """No options of its own."""
    return Part(advantage=LeaveOneOut())
