"""Holding the entropy of uncertain tokens where it was at the start: SIREN.

Jiang et al. 2025, "Rethinking Entropy Regularization in Large Reasoning Models", arXiv:2509.25133.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from megaent.objective.bounds import response_quantile
from megaent.objective.checks import require
from megaent.objective.controllers import coef_of
from megaent.objective.seen import Seen, Tokens
from megaent.types import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialEntropy:
    """The entropy that is held: ``anchor`` nats, or that of the first step where it is 0."""

    anchor: float = 0.0
    name: ClassVar[str] = "siren"

    def __post_init__(self) -> None:
        require(self.anchor >= 0, "anchor", "be 0 or more nats", self.anchor)

    def start(self) -> dict[str, float]:
        return {"anchor": self.anchor, "is_set": float(self.anchor > 0)}

    def coefs(self, state: Mapping[str, float]) -> dict[str, float]:
        return {"siren_anchor": state["anchor"], "siren_is_set": state["is_set"]}

    def update(self, state: Mapping[str, float], metrics: Metrics) -> dict[str, float]:
        if state["is_set"]:
            return dict(state)
        return {"anchor": metrics["siren/entropy"], "is_set": 1.0}

    def words(self) -> str:
        whose = f"{self.anchor:g} nats" if self.anchor else "what it was in the first step"
        return f"the entropy over the nucleus of peak tokens is held at {whose}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TowardsAnchor:
    """The slope of ``coef (mean H - anchor)^2``: ``2 coef (mean H - anchor) / share`` on peak tokens, else 0.

    H is the entropy over the nucleus under the old policy. A peak token's is above the ``quantile`` of its
    response's; ``mean`` and ``share`` are over the minibatch of all replicas, ``share`` being that of peak
    tokens among the trained ones. Beside the token mean this is the gradient of the square, to the digit, in
    the first optimizer step of a minibatch. Before the anchor is known it is 0.
    """

    coef: float
    quantile: float = 0.8

    def __post_init__(self) -> None:
        require(self.coef >= 0, "coef", "be 0 or more", self.coef)
        require(0 <= self.quantile < 1, "quantile", "lie in [0, 1)", self.quantile)

    @property
    def scope(self) -> str:
        return "mini"

    def __call__(self, tokens: Tokens, seen: Seen | None) -> Tensor:
        entropy_N = tokens.nucleus_entropy
        if entropy_N is None or seen is None:
            raise ValueError("SIREN reads the entropy over a nucleus; score with nucleus_p first")
        is_peak_N = entropy_N.double() > response_quantile(tokens, entropy_N, self.quantile)
        seen.notes.mean("siren/entropy", entropy_N, tokens.counted() & is_peak_N)
        seen.notes.mean("siren/peak_share", is_peak_N, tokens.counted())
        mean_N = tokens.mean(entropy_N, is_peak_N)
        share_N = tokens.mean(is_peak_N.to(entropy_N.dtype))
        is_held_N = is_peak_N & (share_N > 0) & bool(coef_of(seen, "siren_is_set"))
        away_N = mean_N - coef_of(seen, "siren_anchor")
        return torch.where(is_held_N, 2 * self.coef * away_N / share_N, 0.0)

    def words(self) -> str:
        return (
            f"2 x {self.coef:g} x (mean entropy minus its anchor) above the {self.quantile:g}-quantile of "
            "the response's, 0 elsewhere"
        )
