"""Archer: tokens that reason may move, tokens that hold knowledge are kept.

Wang et al. 2025, "Stabilizing Knowledge, Promoting Reasoning: Dual-Token Constraints for RLVR",
arXiv:2507.15778, and the authors' code. With q the 0.8-quantile of a response's entropies:

    H <= q    ratio clipped to 1 +- 0.2, KL (k3) to the reference with coefficient 1e-3
    H >  q    ratio clipped to 1 +- 0.5, no KL

As in the code the KL is averaged over the low-entropy tokens alone: its coefficient is scaled by (trained
tokens / low-entropy tokens) of the minibatch, which is exact beside the token mean. ``kl_mean="all"``
does not scale.

Departures: entropies are those of the old policy. The dual clip is verl's default.
"""

from __future__ import annotations

from dataclasses import replace

from megaent.objective.aggregations import TokenMean
from megaent.objective.bounds import EntropyBounds, EntropyCoefficient
from megaent.objective.compose import Part
from megaent.objective.cores import clipped
from megaent.objective.method import Term
from megaent.objective.terms import KL

NEUTRAL = ({"clip_high_entropy": 0.2, "kl_low_entropy": 0.0}, {"grpo": {}})
"""Options under which the method is another one, bit for bit."""


def archer(
    *,
    quantile: float = 0.8,
    clip_low_entropy: float = 0.2,
    clip_high_entropy: float = 0.5,
    kl_low_entropy: float = 1e-3,
    kl_high_entropy: float = 0.0,
    kl_mean: str = "low",
    dual_clip: float = 3.0,
) -> Part:
    """``..._low_entropy`` for the tokens up to the response's ``quantile``, ``..._high_entropy`` above it."""
    bounds = EntropyBounds(quantile=quantile, low_entropy=clip_low_entropy, high_entropy=clip_high_entropy)
    coef = EntropyCoefficient(
        low_entropy=kl_low_entropy, high_entropy=kl_high_entropy, quantile=quantile, mean_over=kl_mean
    )
    term = Term(name="kl_to_ref", quantity=KL(estimator="k3", anchor="ref"), coef=coef)
    return Part(
        core=replace(clipped(clip_low_entropy, clip_low_entropy, dual_clip), by_token=bounds),
        terms=(term,) if kl_low_entropy or kl_high_entropy else (),
        suggests=Part(aggregation=TokenMean()),
    )
