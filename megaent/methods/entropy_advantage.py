"""Entropy advantage: uncertain tokens are praised more and blamed less.

Cheng et al. 2025, "Reasoning with Exploration: An Entropy Perspective", arXiv:2506.14758:

    A <- A + min(alpha * H, |A| / kappa)        H the old policy's entropy of the token, a constant

With kappa above 1 no advantage changes its sign, and one of 0 stays 0. Published with clip-higher and the
token mean, alpha 0.4 for GRPO and 0.1 for PPO.

Departures: rewards are the task's own (the paper's are 1 and -1, which gives GRPO's advantage the same
value up to its eps); a dual clip bounds the loss of negative advantages (verl's default).
"""

from __future__ import annotations

from megaent.objective.aggregations import TokenMean
from megaent.objective.compose import Part
from megaent.objective.cores import clipped
from megaent.objective.entropy_advantage import EntropyAdvantage

NEUTRAL = ({"alpha": 0.0}, {"clip_higher": {}})
"""Options under which the method is another one, bit for bit."""


def entropy_advantage(
    *,
    alpha: float = 0.4,
    kappa: float = 2.0,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float = 3.0,
) -> Part:
    """``alpha`` per nat; ``kappa`` above 1 keeps the sign of every advantage."""
    return Part(
        shaping=(EntropyAdvantage(alpha=alpha, kappa=kappa),),
        suggests=Part(core=clipped(clip_low, clip_high, dual_clip), aggregation=TokenMean()),
    )
