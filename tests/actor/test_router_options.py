"""Losses of routers are refused where they would have no effect, or a wrong one."""

from __future__ import annotations

import pytest

from megaent.actor.recompute import RecomputeOptions
from megaent.actor.router_options import RouterOptions
from megaent.actor.sizes import Sizes
from megaent.errors import ConfigError

USED = RouterOptions(z_coef=0.1)
FULL = RecomputeOptions(granularity="full")
MIXTURE = RecomputeOptions(granularity="selective", modules=["core_attn", "moe"])
ATTENTION = RecomputeOptions(granularity="selective")


@pytest.mark.parametrize("name", ["balance_coef", "z_coef"])
def test_a_negative_coefficient_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.router\.{name} must be 0 or more, got -0\.1"):
        RouterOptions(**{name: -0.1})


def test_a_dense_model_has_no_routers_to_teach() -> None:
    RouterOptions().check(has_experts=False, sizes=Sizes(), recompute=FULL)
    with pytest.raises(ConfigError, match="no effect: this model has no experts; leave both at 0"):
        USED.check(has_experts=False, sizes=Sizes(), recompute=RecomputeOptions())


@pytest.mark.parametrize("recompute", [FULL, MIXTURE])
def test_routers_computed_again_in_a_pipeline_are_refused(recompute: RecomputeOptions) -> None:
    """There the next microbatch has begun when a router of the one before runs again."""
    with pytest.raises(ConfigError, match=r"recomputed routers in a pipeline; set model\.recompute"):
        USED.check(has_experts=True, sizes=Sizes(pp=2), recompute=recompute)
    RouterOptions().check(has_experts=True, sizes=Sizes(pp=2), recompute=recompute)
    USED.check(has_experts=True, sizes=Sizes(), recompute=recompute)
    USED.check(has_experts=True, sizes=Sizes(pp=2), recompute=ATTENTION)
