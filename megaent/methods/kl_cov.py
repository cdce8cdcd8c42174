"""KL-Cov: the few tokens that burn the entropy are held near the old policy.

Cui et al. 2025, "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models",
arXiv:2505.22617:

    cov  = (A - mean A) * (log pi - mean log pi)
    loss = -A ratio + coef * |log pi - log pi_old| on the ``fraction`` of tokens of highest cov

The policy term is not clipped. The authors use 0.2 % (here 2e-3) for 7B and 0.02 % for 32B models.

Departures: tokens are ranked by the old policy over the minibatch of all replicas, so that no result
depends on the size of a microbatch; ``scope="micro"`` ranks the current policy's tokens of each
microbatch, as published. Published with or without dynamic sampling, which ``max_batches`` above 0 turns
on.
"""

from __future__ import annotations

from megaent.objective.aggregations import TokenMean
from megaent.objective.compose import Part
from megaent.objective.cores import Unclipped
from megaent.objective.covariance import HighestCovariance
from megaent.objective.method import Term
from megaent.objective.sampling import dynamic_sampling
from megaent.objective.terms import KL


def kl_cov(*, coef: float = 1.0, fraction: float = 2e-3, scope: str = "mini", max_batches: int = 0) -> Part:
    """``fraction`` of the tokens, rounded down but one at least; ``coef=0`` leaves GRPO without a clip."""
    chosen = HighestCovariance(coef=coef, fraction=fraction, scope=scope)
    term = Term(name="kl_cov", quantity=KL(estimator="abs", anchor="old"), coef=chosen)
    return Part(
        core=Unclipped(),
        terms=(term,) if coef else (),
        suggests=Part(aggregation=TokenMean(), sampling=dynamic_sampling(max_batches)),
    )
