"""DAPO: four repairs of GRPO for long responses.

Yu et al. 2025, "DAPO", arXiv:2503.14476.

    clip-higher           the ratio counts up to 1 + 0.28 and down to 1 - 0.2
    token mean            every token of the minibatch weighs the same
    dynamic sampling      groups that are all right or all wrong are replaced
    overlong punishment   the last ``buffer`` tokens below ``max_length`` cost up to ``factor``

The overlong punishment needs the longest length allowed and is off until ``max_length`` (tokens) is
given; the published pair is 20480 and 4096. ``max_batches`` bounds how many batches of prompts a step may
draw; 0 turns dynamic sampling off. No KL term and no dual clip.

Departures: a group counts as uniform by which of its responses are correct; ``metric="shaped"`` goes by the
rewards after the method's own terms. A step that finds too few groups trains on those it has; beyond
``max_length`` the punishment goes on falling (verl), where the paper stops at -1.
"""

from __future__ import annotations

from megaent.objective.advantages import GroupRelative
from megaent.objective.aggregations import TokenMean
from megaent.objective.compose import Part
from megaent.objective.cores import clipped
from megaent.objective.length_rewards import overlong
from megaent.objective.sampling import dynamic_sampling

NEUTRAL = ({"clip_high": 0.2, "dual_clip": 3.0, "max_batches": 0}, {"grpo": {}})
"""Options under which the method is another one, bit for bit."""


def dapo(
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float = 0.0,
    max_batches: int = 10,
    metric: str = "accuracy",
    max_length: int = 0,
    buffer: int = 4096,
    factor: float = 1.0,
) -> Part:
    """``metric`` belongs to dynamic sampling; ``max_length``, ``buffer``, ``factor`` to the punishment."""
    return Part(
        rewards=overlong(max_length, buffer, factor),
        core=clipped(clip_low, clip_high, dual_clip),
        aggregation=TokenMean(),
        sampling=dynamic_sampling(max_batches, metric),
        suggests=Part(advantage=GroupRelative()),
    )
