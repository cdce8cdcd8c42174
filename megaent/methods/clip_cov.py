"""Clip-Cov: a few random tokens among those that burn the entropy do not teach.

Cui et al. 2025, "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models",
arXiv:2505.22617:

    cov        = (A - mean A) * (log pi - mean log pi)
    candidates = trained tokens with cov_low < cov < cov_high that the clip of the ratio does not hold
    weight     = 0 on max(1, ``fraction`` of all trained tokens) of the candidates, drawn at random, else 1

The authors' 7B script clips the ratio to [0, 2], so hardly at all.

Departures: candidates come from the old policy over the minibatch of all replicas, and the draw depends
on a token's place in the batch, so that no result depends on layout; on the old policy the clip holds
nothing. ``scope="micro"`` takes them from the current policy over each microbatch, as published.
Published with or without dynamic sampling, which ``max_batches`` above 0 turns on.
"""

from __future__ import annotations

from megaent.objective.aggregations import TokenMean
from megaent.objective.checks import require
from megaent.objective.compose import Part
from megaent.objective.cores import Clipped
from megaent.objective.covariance import DropFromBand
from megaent.objective.sampling import dynamic_sampling


def clip_cov(
    *,
    fraction: float = 2e-4,
    cov_low: float = 1.0,
    cov_high: float = 5.0,
    clip_low: float = 1.0,
    clip_high: float = 1.0,
    scope: str = "mini",
    max_batches: int = 0,
) -> Part:
    """``cov_low`` and ``cov_high`` bound the covariance, in nats times advantage."""
    require(0 <= clip_low <= 1, "clip_low", "lie in [0, 1]", clip_low)
    require(clip_high >= 0, "clip_high", "be 0 or more", clip_high)
    band = DropFromBand(
        low=cov_low, high=cov_high, fraction=fraction, clip_low=clip_low, clip_high=clip_high, scope=scope
    )
    core = Clipped(low=clip_low, high=clip_high, dual=None)
    return Part(
        weights=(band,),
        suggests=Part(core=core, aggregation=TokenMean(), sampling=dynamic_sampling(max_batches)),
    )
