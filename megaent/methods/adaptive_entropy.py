"""Adaptive entropy: the entropy bonus is switched and sized so that the entropy stays at a target.

He et al. 2025, "Skywork Open Reasoner 1", arXiv:2505.22312, and the authors' code. After a step of
entropy e:

    c <- clip(c + delta if e < target else c - delta, low, high)
    the next step adds  -c * H  to the loss if e < target, else nothing

e is the mean of -log pi_old over the trained tokens of the batch, H the policy's entropy with its
gradient.

Departures: none in the controller, whose state is saved with the run. Published on policy (one optimizer
step a batch) and without the groups that are all right or all wrong: ``max_batches=1`` drops them and
draws no others, 0 keeps them.
"""

from __future__ import annotations

from megaent.objective.compose import Part
from megaent.objective.controllers import AdaptiveEntropy, FromController
from megaent.objective.method import Term
from megaent.objective.sampling import dynamic_sampling
from megaent.objective.terms import NegativeEntropy


def adaptive_entropy(
    *,
    target: float = 0.2,
    delta: float = 1e-4,
    low: float = 0.0,
    high: float = 5e-3,
    start_coef: float = 0.0,
    max_batches: int = 1,
) -> Part:
    """``target`` in nats; ``low`` and ``high`` bound the coefficient, which starts at ``start_coef``."""
    controller = AdaptiveEntropy(target=target, delta=delta, low=low, high=high, start_coef=start_coef)
    coef = FromController(name="adaptive_entropy")
    return Part(
        terms=(Term(name="adaptive_entropy", quantity=NegativeEntropy(), coef=coef),),
        controllers=(controller,),
        suggests=Part(sampling=dynamic_sampling(max_batches)),
    )
