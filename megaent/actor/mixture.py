"""What an actor does for a model with experts beyond what Megatron does: measure their load, steer it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from megatron.core.models.gpt import GPTModel
from torch import Tensor

from megaent.actor.expert_load import ExpertLoad
from megaent.actor.parallel import Layout
from megaent.actor.predicting import PredictingPositions
from megaent.actor.router import Router
from megaent.actor.router_losses import RouterLosses
from megaent.actor.router_options import RouterOptions
from megaent.model_folder.architecture import Architecture
from megaent.types import Metrics


class Mixture:
    """Every method is a collective over the world."""

    def __init__(self, load: ExpertLoad, losses: RouterLosses | None) -> None:
        self._load, self._losses = load, losses

    def counted(self) -> AbstractContextManager[None]:
        """The forward passes that score with the old policy."""
        return self._load.counted()

    def begin_update(self, minibatch_T: Tensor, num_minibatches: int) -> None:
        """``minibatch_T`` says of this replica's tokens which optimizer step learns from them."""
        if self._losses is not None:
            self._losses.begin(self._load.count_LE, minibatch_T, num_minibatches)

    def begin_minibatch(self, number: int) -> None:
        if self._losses is not None:
            self._losses.begin_minibatch(number)

    def without_losses(self) -> AbstractContextManager[None]:
        """Passes whose gradient is the policy's loss alone."""
        return nullcontext() if self._losses is None else self._losses.left_out()

    def metrics(self) -> Metrics:
        return self._load.metrics() | ({} if self._losses is None else self._losses.metrics())


class NoMixture:
    """Of a model without a choice of experts."""

    def counted(self) -> AbstractContextManager[None]:
        return nullcontext()

    def begin_update(self, minibatch_T: Tensor, num_minibatches: int) -> None: ...

    def begin_minibatch(self, number: int) -> None: ...

    def without_losses(self) -> AbstractContextManager[None]:
        return nullcontext()

    def metrics(self) -> Metrics:
        return {}


def mixture(
    models: Sequence[GPTModel], architecture: Architecture, options: RouterOptions, layout: Layout
) -> Mixture | NoMixture:
    experts, num_layers = architecture.experts, architecture.num_layers
    if experts is None:
        return NoMixture()
    positions = PredictingPositions(models, layout)
    routers = [module for model in models for module in model.modules() if isinstance(module, Router)]
    load = ExpertLoad(routers, positions, num_layers=num_layers, num_experts=experts.count, layout=layout)
    if not options.is_used:
        return Mixture(load, None)
    return Mixture(load, RouterLosses(routers, options, positions, num_layers=num_layers, layout=layout))
