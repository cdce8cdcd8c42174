"""Weights by surprisal, -log p of the sampled token, on either side of the advantage: STARE.

Luo et al. 2026, "STARE: Surprisal-Guided Token-Level Advantage Reweighting for Policy Entropy Stability",
arXiv:2606.19236.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from megaent.objective.checks import require
from megaent.objective.controllers import coef_of
from megaent.objective.seen import Seen, Tokens
from megaent.objective.select import largest
from megaent.types import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class SurprisalWeights:
    """The weights of both sides; with a ``step`` above 0 they follow the entropy.

    ``amplify <- clip(amplify + step sgn(target - e), 1, amplify_max)`` and
    ``attenuate <- clip(attenuate - step sgn(target - e), attenuate_min, 1)``, e the entropy of the step at
    hand, nats; the moved weights serve that very step.
    """

    amplify: float = 1.1
    attenuate: float = 1.0
    target: float = 0.3  # nats
    step: float = 0.0
    amplify_max: float = 1.5
    attenuate_min: float = 0.5
    name: ClassVar[str] = "stare"

    def __post_init__(self) -> None:
        require(self.amplify >= 1, "amplify", "be 1 or more", self.amplify)
        require(0 < self.attenuate <= 1, "attenuate", "lie in (0, 1]", self.attenuate)
        require(self.step >= 0, "step", "be 0 or more", self.step)
        require(self.amplify_max >= 1, "amplify_max", "be 1 or more", self.amplify_max)
        require(0 < self.attenuate_min <= 1, "attenuate_min", "lie in (0, 1]", self.attenuate_min)

    @property
    def is_two_sided(self) -> bool:
        return self.attenuate < 1

    def start(self) -> dict[str, float]:
        return {"amplify": self.amplify, "attenuate": self.attenuate}

    def coefs(self, state: Mapping[str, float]) -> dict[str, float]:
        return {"stare_amplify": state["amplify"], "stare_attenuate": state["attenuate"]}

    def update(self, state: Mapping[str, float], metrics: Metrics) -> dict[str, float]:
        amplify, attenuate = self.moved(state["amplify"], state["attenuate"], metrics["stare/entropy"])
        return {"amplify": amplify, "attenuate": attenuate}

    def moved(self, amplify: float, attenuate: float, entropy: float) -> tuple[float, float]:
        """The weights of a step of ``entropy`` from those of the step before."""
        by = self.step * ((entropy < self.target) - (entropy > self.target))
        if not by:
            return amplify, attenuate
        amplify = min(max(amplify + by, 1.0), self.amplify_max)
        return amplify, min(max(attenuate - by, self.attenuate_min), 1.0) if self.is_two_sided else 1.0

    def words(self) -> str:
        return f"the weights by surprisal move by {self.step:g} a step, up below {self.target:g} nats"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopSurprisal:
    """``amplify`` on the most surprising tokens that are praised, ``attenuate`` on those that are blamed.

    Each is the ``fraction`` of highest -log p_old among the minibatch's trained tokens of that sign of the
    advantage, at least one where there is one; 1 elsewhere, and everywhere in a step whose mean entropy is
    at or above ``weights.target``.
    """

    fraction: float = 0.1
    weights: SurprisalWeights = SurprisalWeights()

    def __post_init__(self) -> None:
        require(0 < self.fraction <= 1, "fraction", "lie in (0, 1]", self.fraction)

    @property
    def scope(self) -> str:
        return "mini"

    def __call__(self, tokens: Tokens, seen: Seen | None) -> Tensor:
        entropy = batch_mean(tokens, tokens.entropy)
        amplify, attenuate = self._weights(seen, entropy)
        weight_N = torch.ones_like(tokens.advantage)
        if entropy < self.weights.target:
            weight_N[self.critical(tokens, tokens.advantage > 0)] = amplify
            if self.weights.is_two_sided:
                weight_N[self.critical(tokens, tokens.advantage < 0)] = attenuate
        if seen is not None:
            seen.notes.mean("stare/entropy", tokens.entropy, tokens.counted())
            seen.notes.mean("stare/reweighted", weight_N != 1, tokens.counted())
        return weight_N

    def _weights(self, seen: Seen | None, entropy: float) -> tuple[float, float]:
        if not self.weights.step:
            return self.weights.amplify, self.weights.attenuate
        before = coef_of(seen, "stare_amplify"), coef_of(seen, "stare_attenuate")
        return self.weights.moved(*before, entropy)

    def critical(self, tokens: Tokens, where_N: Tensor) -> Tensor:
        """[N] bool: the most surprising of the counted tokens ``where_N``."""
        available_M = tokens.total(torch.ones_like(tokens.log_prob), where_N)
        # As published: up to the next whole token, unless rounding alone asks for it.
        count_M = (available_M * self.fraction + 0.999999).long()
        return largest(tokens, -tokens.log_prob, count_M, where_N)

    def words(self) -> str:
        share = f"the {self.fraction:g} of highest surprisal"
        blamed = f", {self.weights.attenuate:g} among blamed ones" if self.weights.is_two_sided else ""
        return (
            f"{self.weights.amplify:g} on {share} among praised tokens{blamed}, while entropy is below "
            f"{self.weights.target:g} nats"
        )


def batch_mean(tokens: Tokens, value_N: Tensor) -> float:
    """Over the counted tokens of every minibatch on all replicas; 0 where there are none."""
    total, count = tokens.total(value_N).sum(), tokens.total(torch.ones_like(value_N)).sum()
    return float(total / count.clamp(min=1))
