"""GRPO: the advantage of a response is how much better it did than its siblings.

Shao et al. 2024, "DeepSeekMath", arXiv:2402.03300. Per token, with ratio = pi / pi_old and A the
group-normalised reward:

    loss = max(-A ratio, -A clip(ratio, 1 - clip_low, 1 + clip_high)) + kl_coef * k3(pi, pi_ref)

Departures: the loss is a mean over the tokens of the minibatch, where the paper averages each
response first (``aggregation="response_mean"``); a dual clip bounds the loss of negative advantages
(verl's default); the KL term is off unless asked for.
"""

from __future__ import annotations

from megaent.objective.advantages import GroupRelative
from megaent.objective.aggregations import ConstantLength, ResponseMean, TokenMean
from megaent.objective.compose import Aggregation, Method, chain
from megaent.objective.token_losses import ClippedSurrogate, EntropyBonus, KLToReference


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
) -> Method:
    """``dual_clip=0`` leaves the dual clip out; ``constant_length`` belongs to its aggregation alone."""
    if not 0 <= clip_low < 1:
        raise ValueError(f"clip_low must lie in [0, 1), got {clip_low}")
    if clip_high < 0:
        raise ValueError(f"clip_high must be 0 or more, got {clip_high}")
    if dual_clip and dual_clip <= 1:
        raise ValueError(f"dual_clip must be above 1, or 0 for none, got {dual_clip}")
    return Method(
        advantage=GroupRelative(normalize=normalize),
        token_loss=chain(
            ClippedSurrogate(low=clip_low, high=clip_high, dual=dual_clip or None),
            EntropyBonus(coef=entropy_coef) if entropy_coef else None,
            KLToReference(coef=kl_coef) if kl_coef else None,
        ),
        aggregation=_aggregation(aggregation, constant_length),
        needs_reference=bool(kl_coef),
        group_relative=not (entropy_coef or kl_coef),
    )


def _aggregation(name: str, constant_length: int) -> Aggregation:
    if (name == "constant_length") != (constant_length > 0):
        raise ValueError(
            "constant_length (tokens, above 0) and aggregation=constant_length need each other, got "
            f"{constant_length} and {name!r}"
        )
    known: dict[str, Aggregation] = {"token_mean": TokenMean(), "response_mean": ResponseMean()}
    if name == "constant_length":
        return ConstantLength(length=constant_length)
    if name not in known:
        raise ValueError(f"aggregation must be one of {', '.join([*known, 'constant_length'])}, got {name!r}")
    return known[name]
