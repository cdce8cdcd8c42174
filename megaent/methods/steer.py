"""STEER: tokens that are about to change the entropy much weigh less.

Hao et al. 2025, arXiv:2510.10150, and the authors' code. To first order a step changes the entropy at a
token by

    omega = A ratio (1 - p) (log p + H)        p the probability of the token

and the clipped policy term is weighed by w_min ** (|omega| / max(largest |omega|, 0.02)), a constant
within [w_min, 1]. ``form="linear"`` maps |omega| onto linear_high (smallest) to linear_low (largest)
instead. Published with clip-higher and a dual clip of 10.

Departures: omega is that of the old policy, and the largest is taken over the minibatch of all replicas;
``scope="micro"`` takes the current policy's over each microbatch, as published.
"""

from __future__ import annotations

from megaent.objective.aggregations import TokenMean
from megaent.objective.compose import Part
from megaent.objective.cores import clipped
from megaent.objective.weights import EntropyChange

NEUTRAL = ({"w_min": 1.0}, {"clip_higher": {"dual_clip": 10.0}})
"""Options under which the method is another one, bit for bit."""


def steer(
    *,
    w_min: float = 0.8,
    form: str = "exp",
    linear_low: float = 0.8,
    linear_high: float = 1.2,
    scope: str = "mini",
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float = 10.0,
) -> Part:
    """``w_min`` belongs to form "exp", ``linear_low`` and ``linear_high`` to form "linear"."""
    weight = EntropyChange(
        w_min=w_min, form=form, linear_low=linear_low, linear_high=linear_high, scope=scope
    )
    return Part(
        weights=(weight,),
        suggests=Part(core=clipped(clip_low, clip_high, dual_clip), aggregation=TokenMean()),
    )
