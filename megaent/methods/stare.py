"""STARE: surprising tokens that are praised weigh more while the entropy is below a target.

Luo et al. 2026, "STARE: Surprisal-Guided Token-Level Advantage Reweighting for Policy Entropy Stability",
arXiv:2606.19236, and the authors' code (hp-luo/STARE at commit bffb9e7):

    L+      the ``fraction`` of highest -log pi among the trained tokens with A > 0;  L- likewise with A < 0
    weight  amplify on L+, attenuate on L-, 1 elsewhere    while the batch's mean entropy is below ``target``
            1                                              in other steps
    amplify   <- clip(amplify + step sgn(target - entropy), 1, amplify_max)        ``step`` above 0
    attenuate <- clip(attenuate - step sgn(target - entropy), attenuate_min, 1)

``attenuate=1`` is the paper's variant O1, one-sided, its default; 0.9 is C2, two-sided. Published with
clip-higher, a dual clip of 10, the token mean and dynamic sampling.

Departures: L+ and L- are those of the old policy over the minibatch of all replicas, where the code takes the
current policy over each microbatch. Where it draws no more batches to replace uniform groups,
``max_batches=0`` keeps them.
"""

from __future__ import annotations

from megaent.objective.aggregations import TokenMean
from megaent.objective.compose import Part
from megaent.objective.cores import clipped
from megaent.objective.sampling import dynamic_sampling
from megaent.objective.surprisal import SurprisalWeights, TopSurprisal

NEUTRAL = ({"amplify": 1.0, "max_batches": 0}, {"clip_higher": {"dual_clip": 10.0}})
"""Options under which the method is another one, bit for bit."""


def stare(
    *,
    fraction: float = 0.1,
    amplify: float = 1.1,
    attenuate: float = 1.0,
    target: float = 0.3,
    step: float = 0.0,
    amplify_max: float = 1.5,
    attenuate_min: float = 0.5,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float = 10.0,
    max_batches: int = 10,
) -> Part:
    """``target`` in nats; ``amplify_max`` and ``attenuate_min`` bound weights that move by ``step``."""
    limits = {"amplify_max": amplify_max, "attenuate_min": attenuate_min}
    weights = SurprisalWeights(
        amplify=amplify, attenuate=attenuate, target=target, step=step, **(limits if step else {})
    )
    is_on = amplify != 1 or attenuate != 1 or step != 0
    return Part(
        weights=(TopSurprisal(fraction=fraction, weights=weights),) if is_on else (),
        controllers=(weights,) if step else (),
        suggests=Part(
            core=clipped(clip_low, clip_high, dual_clip),
            aggregation=TokenMean(),
            sampling=dynamic_sampling(max_batches),
        ),
    )
