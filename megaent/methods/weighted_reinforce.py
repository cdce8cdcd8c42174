"""W-REINFORCE and NSR: learn mainly from mistakes.

Zhu et al. 2025, "The Surprising Effectiveness of Negative Reinforcement in LLM Reasoning",
arXiv:2506.01347. Responses are praised or blamed for what they are, compared with nothing, and praise
counts little:

    A = 2 r - 1 (1 and -1 for rewards 1 and 0)        policy term times ``weight`` where A > 0

``weight=0`` is NSR, which only ever lowers the probability of wrong responses and so spreads what it
takes away over all others; 0.1 is W-REINFORCE, 1 treats both alike.

Departures: the policy term is GRPO's clipped one. Beside a method that sets another advantage only the
weight is added.
"""

from __future__ import annotations

from megaent.objective.advantages import SignedReward
from megaent.objective.compose import Part
from megaent.objective.weights import PositiveWeight


def weighted_reinforce(*, weight: float = 0.1) -> Part:
    """``weight`` of what is praised; the paper's lambda."""
    return Part(weights=(PositiveWeight(weight=weight),), suggests=Part(advantage=SignedReward()))
