"""Taking the correlation with the log-probability out of the advantage: REPO."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from megaent.objective.checks import require
from megaent.objective.controllers import coef_of
from megaent.objective.seen import Seen
from megaent.types import Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class SurprisalRescale:
    """``A (1 - zeta log p)`` of a positive advantage, ``A (1 + zeta log p)`` of a negative one.

    Petrenko et al. 2026, "Entropy-Preserving Reinforcement Learning", arXiv:2603.11682 (REPO-R): rare tokens
    are praised more and blamed less. p is the old policy's probability of the token. No advantage changes its
    sign. ``zeta`` None is the controller's.
    """

    zeta: float | None = None

    def __call__(self, advantage_T: Tensor, seen: Seen) -> Tensor:
        assert seen.batch.log_prob_old is not None, "pieces see scored batches only"
        zeta = coef_of(seen, "repo_zeta") if self.zeta is None else self.zeta
        surprisal_T = -seen.batch.log_prob_old.to(advantage_T.dtype)
        factor_T = 1.0 + zeta * advantage_T.sign() * surprisal_T
        return advantage_T * factor_T.clamp(min=0.0)

    def words(self) -> str:
        zeta = "its controller's zeta" if self.zeta is None else f"{self.zeta:g}"
        return f"times 1 + {zeta} x surprisal where positive, 1 - {zeta} x surprisal where negative"


@dataclass(frozen=True, slots=True, kw_only=True)
class ZetaByEntropy:
    """zeta doubles in the direction that brings the entropy back to ``target``, and halves in the other.

    ``target`` 0 is the first step's entropy. |zeta| stays in [``low``, ``high``]; halved below ``low`` it
    changes its sign instead. The entropy is the mean of -log_prob_old over the trained tokens, nats.
    """

    start_zeta: float = 1e-3
    low: float = 1e-4
    high: float = 0.05
    target: float = 0.0  # nats
    name: ClassVar[str] = "repo"

    def __post_init__(self) -> None:
        require(0 < self.low <= self.high, "zeta_min", f"lie in (0, zeta_max = {self.high}]", self.low)
        require(
            self.low <= abs(self.start_zeta) <= self.high,
            "zeta", f"have a size in [{self.low}, {self.high}]", self.start_zeta,
        )  # fmt: skip
        require(self.target >= 0, "target", "be 0 or more nats", self.target)

    def start(self) -> dict[str, float]:
        return {"zeta": self.start_zeta, "target": self.target}

    def coefs(self, state: Mapping[str, float]) -> dict[str, float]:
        return {"repo_zeta": state["zeta"]}

    def update(self, state: Mapping[str, float], metrics: Metrics) -> dict[str, float]:
        entropy, zeta = metrics["entropy/sampled"], state["zeta"]
        if not state["target"]:
            return {"zeta": zeta, "target": entropy}
        if entropy != state["target"]:
            zeta = self.moved(zeta, 1.0 if entropy < state["target"] else -1.0)
        return {"zeta": zeta, "target": state["target"]}

    def moved(self, zeta: float, sign: float) -> float:
        """A step in the direction of ``sign``, 1 to raise the entropy."""
        along = zeta * sign
        if along > 0:
            return sign * min(2 * along, self.high)
        return sign * (self.low if -along / 2 < self.low else along / 2)

    def words(self) -> str:
        target = f"{self.target:g} nats" if self.target else "the first step's"
        return f"zeta, at first {self.start_zeta:g}, doubles or halves to hold the entropy at {target}"
