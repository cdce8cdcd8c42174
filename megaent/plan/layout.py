"""Who holds what of the model and of the batch."""

from __future__ import annotations

from dataclasses import dataclass

from megaent.actor.sizes import Sizes
from megaent.errors import ConfigError
from megaent.plan.shape import Shape

RECOMPUTE = ("none", "selective", "full")
SHARDING = ("replicated", "optimizer", "full")
"""Of gradients and optimizer state over data-parallel ranks: of nothing, of the optimizer's state (Megatron's
distributed optimizer; megaent train with more than one replica), of everything (FSDP)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    tp: int = 1
    pp: int = 1
    vpp: int = 1  # virtual stages a rank
    cp: int = 1
    ep: int = 1
    dp: int = 1
    sequence_parallel: bool = False
    recompute: str = "none"
    sharding: str = "replicated"

    @property
    def cards(self) -> int:
        return self.tp * self.pp * self.cp * self.dp

    def __str__(self) -> str:
        expert = f" EP{self.ep}" if self.ep > 1 else ""
        sizes = f"TP{self.tp} PP{self.pp}" + (f"x{self.vpp}" if self.vpp > 1 else "")
        return f"{sizes} CP{self.cp}{expert} DP{self.dp} recompute {self.recompute}"

    def check(self, shape: Shape) -> None:
        """Raises ConfigError where the sizes do not divide the model."""
        sizes = Sizes(tp=self.tp, pp=self.pp, vpp=self.vpp if self.vpp > 1 else None, cp=self.cp)
        sizes.check_model(shape)
        if self.ep > 1 and not shape.experts:
            raise ConfigError(f"ep={self.ep} needs a model with experts, and {shape.name} has none; ep=1")
        if shape.experts % self.ep:
            raise ConfigError(f"ep={self.ep} does not divide the {shape.experts} experts of {shape.name}")
        if (self.dp * self.cp * self.tp) % self.ep:
            raise ConfigError(
                f"ep={self.ep} does not divide the {self.dp * self.cp * self.tp} cards of a pipeline stage"
            )
