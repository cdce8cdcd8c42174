"""How much of the gradient each part of a loss is, while nothing has been learnt from it yet."""

from __future__ import annotations

from collections.abc import Mapping

from megaent.actor.actor import Actor
from megaent.objective.method import Loss
from megaent.types import Experience, Metrics, TokenTerms

_AREA = "grad_share/"


def shares_of_gradient(
    actor: Actor, batch: Experience, terms: TokenTerms, parts: Mapping[str, Loss], *, temperature: float
) -> Metrics:
    """``grad_share/NAME``: the L2 norm of a part's own gradient over the sum of all parts' norms.

    A collective; over the first minibatch, one more pass a part. Parts that pull against each other are no
    less for it.
    """
    norms = {
        name: actor.gradient_norm(batch, terms, loss, temperature=temperature) for name, loss in parts.items()
    }
    total = sum(norms.values()) or 1.0
    return {f"{_AREA}{name}": norm / total for name, norm in norms.items()}


def told_shares(metrics: Mapping[str, float]) -> str:
    """A line for people; "" in a step without shares."""
    found = {name.removeprefix(_AREA): share for name, share in metrics.items() if name.startswith(_AREA)}
    told = ", ".join(f"{name} {share:.1%}" for name, share in found.items())
    return f"shares of the gradient before it is learnt from: {told}" if told else ""
