"""Coefficients with a state, read at the start of a step and moved by its metrics at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from megaent.objective.checks import require
from megaent.objective.seen import Seen, Tokens
from megaent.types import Metrics


def coef_of(seen: Seen | None, name: str) -> float:
    """A controller's number for this step."""
    if seen is None or name not in seen.coefs:
        known = sorted(seen.coefs) if seen is not None else []
        raise ValueError(
            f"Seen.coefs must hold {name!r}, got {known}; fill it from Controller.coefs(state) first"
        )
    return seen.coefs[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class FromController:
    """A controller's number, the same for every token of the step."""

    name: str

    @property
    def scope(self) -> str:
        return "mini"

    def __call__(self, tokens: Tokens, seen: Seen | None) -> Tensor:
        return torch.full_like(tokens.advantage, coef_of(seen, self.name))

    def words(self) -> str:
        return f"{self.name}, set by its controller"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveEntropy:
    """The entropy coefficient that holds the entropy at a target.

    He et al. 2025, "Skywork Open Reasoner 1", arXiv:2505.22312, and the authors' code: after each step the
    coefficient rises by ``delta`` if the step's entropy e was below ``target``, else falls by it, within
    [``low``, ``high``]; the next step uses it if e was below the target, and 0 otherwise. e is the mean
    of -log_prob_old over the trained tokens, nats ("entropy/sampled").
    """

    target: float = 0.2  # nats
    delta: float = 1e-4
    low: float = 0.0
    high: float = 5e-3
    start_coef: float = 0.0
    name: ClassVar[str] = "adaptive_entropy"

    def __post_init__(self) -> None:
        require(self.delta >= 0, "delta", "be 0 or more", self.delta)
        require(self.low <= self.high, "low", f"be at most high = {self.high}", self.low)
        require(
            self.low <= self.start_coef <= self.high,
            "start_coef", f"lie in [{self.low}, {self.high}]", self.start_coef,
        )  # fmt: skip

    def start(self) -> dict[str, float]:
        return {"coef": self.start_coef, "is_on": 0.0}

    def coefs(self, state: Mapping[str, float]) -> dict[str, float]:
        return {"adaptive_entropy": state["coef"] if state["is_on"] else 0.0}

    def update(self, state: Mapping[str, float], metrics: Metrics) -> dict[str, float]:
        is_below = metrics["entropy/sampled"] < self.target
        moved = state["coef"] + (self.delta if is_below else -self.delta)
        return {"coef": min(max(moved, self.low), self.high), "is_on": float(is_below)}

    def words(self) -> str:
        return (
            f"the entropy coefficient moves by {self.delta:g} a step within [{self.low:g}, {self.high:g}] "
            f"and is used while entropy is below {self.target:g} nats"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondTemperature:
    """The temperature of the second rollout, and how many of its responses may replace others.

    AEPO, arXiv:2510.08141, and the authors' code: ``hot`` while the last step's entropy was at or below
    ``target``, ``cold`` above it. Before the first step the entropy counts as on target.
    """

    target: float = 0.5  # nats
    hot: float = 1.2
    cold: float = 0.8
    num_replaced_below: int = 60  # responses, entropy at or below the target
    num_replaced_above: int = 30
    name: ClassVar[str] = "second_temperature"

    def __post_init__(self) -> None:
        require(self.cold > 0, "temperature_cold", "be above 0", self.cold)
        require(self.hot >= self.cold, "temperature_hot", f"be at least {self.cold}", self.hot)
        for option in ("num_replaced_below", "num_replaced_above"):
            require(getattr(self, option) >= 0, option, "be 0 or more", getattr(self, option))

    def start(self) -> dict[str, float]:
        return {"entropy": self.target}

    def coefs(self, state: Mapping[str, float]) -> dict[str, float]:
        is_below = state["entropy"] <= self.target
        return {
            "second_temperature": self.hot if is_below else self.cold,
            "num_replaced": float(self.num_replaced_below if is_below else self.num_replaced_above),
        }

    def update(self, state: Mapping[str, float], metrics: Metrics) -> dict[str, float]:
        return {"entropy": metrics["aepo/entropy"]}

    def words(self) -> str:
        return (
            f"the second rollout is drawn at {self.hot:g} while entropy is at most {self.target:g} nats, "
            f"at {self.cold:g} above it"
        )
