"""SIREN: the entropy of the uncertain tokens, over their likely continuations, is held where it began.

Jiang et al. 2025, "Rethinking Entropy Regularization in Large Reasoning Models", arXiv:2509.25133, and the
authors' code (Linn3a/siren at commit fa59a8d):

    H_t     entropy over the nucleus: the most probable tokens that reach ``p`` together, renormalised
    peak    H_t above the ``quantile`` of H over the response
    loss    policy term + coef (mean of H over peak tokens - anchor)^2
    anchor  the same mean under the policy of the first step, or what is given

Read in the code: the mask on H over the nucleus and not on the whole entropy, the quantile within a response,
the square, p = 0.8, quantile 0.8, coef 0.005, clip 0.28 both ways, no division by the group's deviation.

Departures: the nucleus includes the token with which p is reached, as everywhere else, where the code
leaves it out (and is then empty for a token of probability above p). The mean is over the peak tokens of the
minibatch of all replicas under the old policy, where the code averages responses of a microbatch; the
gradient is then that of the square beside the token mean, in the first optimizer step on a batch. The loss
is the token mean, where the code divides by a constant length: ``method=[siren,dr_grpo]``. In the first step,
whose entropy becomes the anchor, nothing is held.
"""

from __future__ import annotations

from megaent.objective.advantages import GroupRelative
from megaent.objective.aggregations import TokenMean
from megaent.objective.compose import Part
from megaent.objective.cores import clipped
from megaent.objective.method import Term
from megaent.objective.self_anchored import InitialEntropy, TowardsAnchor
from megaent.objective.terms import NucleusEntropy

NEUTRAL = ({"coef": 0.0}, {"grpo": {"normalize": False, "clip_low": 0.28, "clip_high": 0.28}})
"""Options under which the method is another one, bit for bit."""


def siren(
    *,
    coef: float = 0.005,
    p: float = 0.8,
    quantile: float = 0.8,
    anchor: float = 0.0,
    clip_low: float = 0.28,
    clip_high: float = 0.28,
    dual_clip: float = 3.0,
) -> Part:
    """``anchor`` in nats, 0 for the first step's; ``p`` is the probability of the nucleus."""
    held = Term(name="siren", quantity=NucleusEntropy(p=p), coef=TowardsAnchor(coef=coef, quantile=quantile))
    return Part(
        terms=(held,) if coef else (),
        controllers=(InitialEntropy(anchor=anchor),) if coef else (),
        suggests=Part(
            advantage=GroupRelative(normalize=False),
            core=clipped(clip_low, clip_high, dual_clip),
            aggregation=TokenMean(),
        ),
    )
