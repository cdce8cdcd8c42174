"""Megatron's router, whose scores can be looked at on their way to the choice of experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from megatron.core.transformer.moe.moe_layer import MoELayer
from megatron.core.transformer.moe.router import TopKRouter
from torch import Tensor

Attach = Callable[[Tensor, int], Tensor]  # scores [N, 1, E] and layer, from 0: the scores to go on with


class Router(TopKRouter):
    """As Megatron's own until ``attach`` is set."""

    attach: Attach | None = None

    def routing(self, logits: Tensor, *args: object, **kwargs: object) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        if self.attach is not None:
            logits = self.attach(logits, layer_of(self))
        return super().routing(logits, *args, **kwargs)  # type: ignore[arg-type,return-value]


def layer_of(router: TopKRouter) -> int:
    """From 0, over all pipeline stages."""
    assert router.layer_number is not None, "Megatron numbers its layers from 1"
    return router.layer_number - 1


def with_our_router(mixture: partial[MoELayer]) -> partial[MoELayer]:
    """The same layer with ``Router`` in the place of Megatron's."""
    return partial(mixture, submodules=replace(mixture.keywords["submodules"], router=Router))
