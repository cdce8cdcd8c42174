"""EE: compress where the group is accurate, explore where it is not, in one batch.

The entropy-entangled baseline of "Entropy-Guided Reasoning Compression", arXiv:2511.14258: groups of which
at least half is correct learn by the objective of EGRC's compress phase, the others by its explore
phase (megaent.methods.egrc says both). The paper's EE* is EE for more steps.

Inferred: everything that is inferred in EGRC.

Departures: EGRC's; temperature and length limit are the run's own, the paper gives none for EE.
"""

from __future__ import annotations

from megaent.objective.advantages import GroupRelative
from megaent.objective.aggregations import aggregation as aggregation_named
from megaent.objective.compose import Part
from megaent.objective.compression import (
    Absolute,
    AccurateGroups,
    AdvantageByAccuracy,
    FormatAndLength,
    PositiveOnly,
    RewardByAccuracy,
    ShortCorrect,
)
from megaent.objective.cores import clipped

NEUTRAL = (
    {"threshold": 2.0, "format_weight": 0.0, "penalty": 0.0},
    {"grpo": {"aggregation": "response_mean"}},
)
"""Options under which the method is another one, bit for bit: no group is accurate enough to compress."""


def ee(
    *,
    threshold: float = 0.5,
    max_length: int = 4096,
    reward_at_limit: float = 0.1,
    reward_scale: float = 1.0,
    shape: str = "exponent",
    format_weight: float = 1.0,
    penalty: float = 0.25,
    penalty_per: int = 1000,
    penalty_in_steps: bool = False,
    penalty_at_most: float | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 3.0,
    aggregation: str = "response_mean",
    constant_length: int = 0,
) -> Part:
    """``threshold``: the share of correct responses from which a group is compressed; above 1, none is."""
    groups = AccurateGroups(threshold=threshold)
    explore = FormatAndLength(
        max_length=max_length,
        format_weight=format_weight,
        penalty=penalty,
        per=penalty_per,
        in_steps=penalty_in_steps,
        at_most=penalty_at_most,
    )
    compress = ShortCorrect(max_length=max_length, reward_at_limit=reward_at_limit, shape=shape)
    return Part(
        rewards=(RewardByAccuracy(groups=groups, accurate=compress, rest=explore),),
        advantage=AdvantageByAccuracy(
            groups=groups, accurate=Absolute(coef=reward_scale), rest=GroupRelative()
        ),
        weights=(PositiveOnly(groups=groups),),
        suggests=Part(
            core=clipped(clip_low, clip_high, dual_clip),
            aggregation=aggregation_named(aggregation, constant_length),
        ),
    )
