"""OPO: the group's baseline is weighted by length.

Hao et al. 2025, "On-Policy RL with Optimal Reward Baseline", arXiv:2505.23585:

    A = r - sum of T r over the group / sum of T        T the length of a response

Departures: the paper trains exactly on policy, one optimizer step a batch (set optim.minibatches=1 for
that); the clip is GRPO's and does nothing there. Combine with grpo for its other options.
"""

from __future__ import annotations

from megaent.objective.advantages import LengthWeighted
from megaent.objective.compose import Part


def opo() -> Part:
    """No options of its own."""
    return Part(advantage=LengthWeighted())
