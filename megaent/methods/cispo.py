"""CISPO: the ratio is clipped as a weight, so that no token loses its gradient.

MiniMax 2025, "MiniMax-M1", arXiv:2506.13585:

    loss = -A * stop_gradient(clip(ratio, 1 - clip_low, 1 + clip_high)) * log pi

Departures: none in the policy term. ``clip_low=1`` leaves the lower bound out, as in practice;
``clip_high=2`` is our default, the report does not give its own. Combine with grpo for its other options.
"""

from __future__ import annotations

from megaent.objective.aggregations import TokenMean
from megaent.objective.checks import require
from megaent.objective.compose import Part
from megaent.objective.cores import ClippedWeight


def cispo(*, clip_low: float = 1.0, clip_high: float = 2.0) -> Part:
    """The ratio counts from 1 - ``clip_low`` to 1 + ``clip_high``."""
    require(0 <= clip_low <= 1, "clip_low", "lie in [0, 1]", clip_low)
    require(clip_high >= 0, "clip_high", "be 0 or more", clip_high)
    return Part(core=ClippedWeight(low=clip_low, high=clip_high), suggests=Part(aggregation=TokenMean()))
