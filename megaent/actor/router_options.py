"""``model.router``: losses that the routers of a mixture learn from beside the policy's."""

from __future__ import annotations

from dataclasses import dataclass

from megaent.actor.recompute import RecomputeOptions
from megaent.actor.sizes import Sizes
from megaent.options import require


@dataclass
class RouterOptions:
    """Coefficients of what ``megaent.actor.router_losses`` adds in every layer; 0 leaves a loss out."""

    balance_coef: float = 0.0  # of the load-balancing loss, 1 where experts are chosen equally often
    z_coef: float = 0.0  # of the squared log-partition of a router's scores, nats squared

    def __post_init__(self) -> None:
        for name in ("balance_coef", "z_coef"):
            value = getattr(self, name)
            require(value >= 0, f"model.router.{name} must be 0 or more, got {value}")

    @property
    def is_used(self) -> bool:
        return self.balance_coef > 0 or self.z_coef > 0

    def check(self, *, has_experts: bool, sizes: Sizes, recompute: RecomputeOptions) -> None:
        """Raises ConfigError where they would have no effect, or a wrong one.

        In a pipeline a router that is computed again no longer knows which microbatch it is in.
        """
        named = f"model.router.balance_coef={self.balance_coef} and z_coef={self.z_coef}"
        require(
            has_experts or not self.is_used,
            f"{named} have no effect: this model has no experts; leave both at 0",
        )
        require(
            not (self.is_used and sizes.pp > 1 and recompute.includes_routers),
            f"{named} cannot be combined with recomputed routers in a pipeline; set "
            "model.recompute.granularity to none or to selective without the module moe, or "
            "parallel.pipeline_model_parallel_size=1",
        )
