"""GSPO: the unit of importance is the response.

Zheng et al. 2025, "Group Sequence Policy Optimization", arXiv:2507.18071. Every token of a response has
the same ratio, the geometric mean of its tokens' ratios, clipped within [1 - clip_low, 1 + clip_high];
responses are averaged after their tokens.

Departures: the token form (the paper's GSPO-token with equal advantages), whose gradient is the same; the
log ratio of a response is clamped at 10 from above, as in verl. 3e-4 and 4e-4 are those of verl's
example. Combine with grpo for its other options.
"""

from __future__ import annotations

from megaent.objective.aggregations import ResponseMean
from megaent.objective.checks import require
from megaent.objective.compose import Part
from megaent.objective.cores import SequenceClipped


def gspo(*, clip_low: float = 3e-4, clip_high: float = 4e-4) -> Part:
    """Bounds of the ratio of a whole response, so a thousand times tighter than GRPO's."""
    require(0 <= clip_low < 1, "clip_low", "lie in [0, 1)", clip_low)
    require(clip_high >= 0, "clip_high", "be 0 or more", clip_high)
    return Part(core=SequenceClipped(low=clip_low, high=clip_high), suggests=Part(aggregation=ResponseMean()))
