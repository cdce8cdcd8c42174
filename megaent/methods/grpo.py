"""GRPO: the advantage of a response is how much better it did than its siblings.

Shao et al. 2024, "DeepSeekMath", arXiv:2402.03300. Per token, with ratio = pi / pi_old and A the
group-normalised reward:

    loss = max(-A ratio, -A clip(ratio, 1 - clip_low, 1 + clip_high)) + kl_coef * k3(pi, pi_ref)

Departures: the loss is a mean over the tokens of the minibatch, where the paper averages each
response first (``aggregation="response_mean"``); a dual clip bounds the loss of negative advantages
(verl's default); the KL term is off unless asked for. GRPO is also what every composition starts from:
it only suggests, so that ``method=[grpo,rloo]`` takes RLOO's advantage and GRPO's other options.
"""

from __future__ import annotations

from megaent.objective.advantages import GroupRelative
from megaent.objective.aggregations import aggregation as aggregation_named
from megaent.objective.compose import Part
from megaent.objective.cores import clipped
from megaent.objective.terms import entropy_bonus, kl_to_reference


def grpo(
    *,
    normalize: bool = True,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 3.0,
    entropy_coef: float = 0.0,
    kl_coef: float = 0.0,
    aggregation: str = "token_mean",
    constant_length: int = 0,
) -> Part:
    """``dual_clip=0`` leaves the dual clip out; ``constant_length`` belongs to its aggregation alone."""
    return Part(
        terms=(*entropy_bonus(entropy_coef), *kl_to_reference(kl_coef)),
        suggests=Part(
            advantage=GroupRelative(normalize=normalize),
            core=clipped(clip_low, clip_high, dual_clip),
            aggregation=aggregation_named(aggregation, constant_length),
        ),
    )
