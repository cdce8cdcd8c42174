"""Forking tokens (80/20): only the tokens of highest entropy teach.

Wang et al. 2025, "Beyond the 80/20 Rule: High-Entropy Minority Tokens Drive Effective Reinforcement
Learning", arXiv:2506.01939. The policy term counts where the entropy is at or above the (1 -
fraction)-quantile of the minibatch; the mean is still over all tokens, and KL or entropy terms keep every
token. Published on DAPO, whose clip, token mean, dynamic sampling and overlong punishment (``max_length``
above 0) come along.

Departures: the quantile is that of the old policy over the minibatch of all replicas, linear between
order statistics. The paper's batch is ours of one optimizer step.
"""

from __future__ import annotations

from megaent.objective.aggregations import TokenMean
from megaent.objective.compose import Part
from megaent.objective.cores import clipped
from megaent.objective.length_rewards import overlong
from megaent.objective.sampling import dynamic_sampling
from megaent.objective.weights import HighEntropyOnly

NEUTRAL = ({"fraction": 1.0}, {"dapo": {}})
"""Options under which the method is another one, bit for bit."""


def forking_tokens(
    *,
    fraction: float = 0.2,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float = 0.0,
    max_batches: int = 10,
    max_length: int = 0,
    buffer: int = 4096,
    factor: float = 1.0,
) -> Part:
    """``fraction`` of the tokens teach; the other options are DAPO's."""
    return Part(
        rewards=overlong(max_length, buffer, factor),
        weights=(HighEntropyOnly(fraction=fraction),),
        suggests=Part(
            core=clipped(clip_low, clip_high, dual_clip),
            aggregation=TokenMean(),
            sampling=dynamic_sampling(max_batches),
        ),
    )
