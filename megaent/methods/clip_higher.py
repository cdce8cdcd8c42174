"""Clip-low and clip-high: the two bounds of the ratio steer the entropy.

Park et al. 2025, arXiv:2509.26114: what the lower bound holds raises the entropy and what the upper bound
holds lowers it, so that widening the upper bound (Yu et al. 2025, "DAPO", arXiv:2503.14476) keeps a
policy uncertain, and a tight lower one does too.

Departures: the paper tunes both bounds; 0.2 and 0.28 are DAPO's. The rest is GRPO's, its dual clip
included.
"""

from __future__ import annotations

from megaent.objective.compose import Part
from megaent.objective.cores import clipped

NEUTRAL = ({"clip_high": 0.2}, {"grpo": {}})
"""Options under which the method is another one, bit for bit."""


def clip_higher(*, clip_low: float = 0.2, clip_high: float = 0.28, dual_clip: float = 3.0) -> Part:
    """The ratio counts from 1 - ``clip_low`` to 1 + ``clip_high``; ``dual_clip=0``: no dual clip."""
    return Part(core=clipped(clip_low, clip_high, dual_clip))
