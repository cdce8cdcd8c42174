"""LESS: credit the certain segments that only correct responses share, silence those that both kinds do.

"Beyond High-Entropy Exploration: Correctness-Aware Low-Entropy Segment-Based Advantage Shaping for
Reasoning LLMs", arXiv:2512.00908. The advantage of each token is multiplied by

    1        above the ``quantile`` of its response's entropies
    c / N    in a low-entropy segment that c of the N responses of its kind hold, and none of the other kind
    0        in one that responses of both kinds hold
    1 / N    elsewhere (``base_weight``)

(megaent.objective.segment_shaping has it exactly). N counts the responses of the group of the same
correctness. The equations are read from the authors' code; the paper was not at hand.

Departures: ``mode="clean"`` counts every occurrence of a segment in every response and does not depend on
their order; "released" repeats the authors' search, which links each segment to one other response,
merges nested segments as they come and paints one place per response. Segments are compared as token ids,
where the code compares decoded strings.
"""

from __future__ import annotations

from megaent.objective.advantages import GroupRelative
from megaent.objective.aggregations import aggregation as aggregation_named
from megaent.objective.compose import Part
from megaent.objective.cores import clipped
from megaent.objective.segment_shaping import SegmentSupport

NEUTRAL = (
    {"base_weight": 1.0, "min_length": 10**9},
    {"grpo": {"clip_high": 0.28, "dual_clip": 10.0}},
)
"""Options under which the method is another one, bit for bit: no segment is long enough."""


def less(
    *,
    mode: str = "clean",
    quantile: float = 0.8,
    min_length: int = 5,
    base_weight: float | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float = 10.0,
    aggregation: str = "token_mean",
    constant_length: int = 0,
) -> Part:
    """``min_length`` of a segment in tokens; ``base_weight`` null is 1 / N."""
    shape = SegmentSupport(mode=mode, quantile=quantile, min_length=min_length, base_weight=base_weight)
    return Part(
        shaping=(shape,),
        suggests=Part(
            advantage=GroupRelative(),
            core=clipped(clip_low, clip_high, dual_clip),
            aggregation=aggregation_named(aggregation, constant_length),
        ),
    )
