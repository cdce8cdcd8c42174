"""``model.recompute``: what of the forward pass is computed again in the backward pass instead of being kept.

Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models" (2022); the names and the
work are Megatron-Core's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from megaent.actor.sizes import Sizes
from megaent.errors import ConfigError
from megaent.model_folder.architecture import Architecture
from megaent.options import require

MODULES = ("core_attn", "layernorm", "mlp", "moe")


@dataclass
class RecomputeOptions:
    """``full`` is of whole layers, by their number; ``selective`` of parts of every layer, by name."""

    granularity: str = "none"  # none | full | selective
    # Of full: uniform keeps the input of every num_layers-th layer and computes all again; block computes the
    # first num_layers of each (virtual) pipeline stage again and keeps all of the others.
    method: Optional[str] = None  # noqa: UP045 - uniform | block; null: uniform
    num_layers: Optional[int] = None  # noqa: UP045 - null: 1
    modules: Optional[list[str]] = None  # noqa: UP045 - of selective; null: [core_attn]

    def __post_init__(self) -> None:
        kinds = ("none", "full", "selective")
        require(
            self.granularity in kinds,
            f"model.recompute.granularity must be one of {', '.join(kinds)}, got {self.granularity!r}",
        )
        require(
            self.method in (None, "uniform", "block"),
            f"model.recompute.method must be uniform or block, got {self.method!r}",
        )
        self._require_effect()
        require(
            self.num_layers is None or self.num_layers > 0,
            f"model.recompute.num_layers must be positive, got {self.num_layers}",
        )
        unknown = sorted(set(self.modules or []) - set(MODULES))
        require(
            not unknown and self.modules != [],
            f"model.recompute.modules must name some of {', '.join(MODULES)}, got {self.modules}",
        )

    def _require_effect(self) -> None:
        for name, owner in (("method", "full"), ("num_layers", "full"), ("modules", "selective")):
            require(
                getattr(self, name) is None or self.granularity == owner,
                f"model.recompute.{name} has no effect with granularity={self.granularity}; it belongs to "
                f"model.recompute.granularity={owner}",
            )

    @property
    def includes_routers(self) -> bool:
        """Of a mixture."""
        return self.granularity == "full" or "moe" in (self.modules or [])

    def check(self, architecture: Architecture, sizes: Sizes, implementation: str) -> None:
        """Raises ConfigError for what this model, so built and divided, has not got.

        layernorm: megatron-core 0.19.2 takes ``fp8=False`` for on there, and asks Transformer Engine
        (findings/megatron_recompute_fp8_false_means_on.sh).
        """
        if "layernorm" in (self.modules or []) and implementation == "local":
            raise ConfigError(
                "model.recompute.modules names layernorm, which Megatron-Core computes again with "
                "Transformer Engine only; leave it out or set model.implementation=transformer_engine"
            )
        layers = min(sizes.layers_of_stages(architecture.num_layers)) // (sizes.vpp or 1)
        if (self.num_layers or 1) > layers:
            raise ConfigError(
                f"model.recompute.num_layers={self.num_layers}, but a pipeline stage has {layers} layers; "
                f"choose 1 to {layers}"
            )
        missing = "mlp" if architecture.experts else "moe"
        if missing in (self.modules or []):
            other = "moe" if architecture.experts else "mlp"
            raise ConfigError(
                f"model.recompute.modules names {missing}, and no layer of this {architecture.family} model "
                f"has one; name {other}"
            )

    def megatron(self) -> dict[str, Any]:
        """Of a TransformerConfig."""
        if self.granularity == "full":
            return {
                "recompute_granularity": "full",
                "recompute_method": self.method or "uniform",
                "recompute_num_layers": self.num_layers or 1,
            }
        if self.granularity == "selective":
            return {
                "recompute_granularity": "selective",
                "recompute_modules": list(self.modules or ["core_attn"]),
            }
        return {}
