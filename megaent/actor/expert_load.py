"""How evenly the routers of a mixture spread tokens over experts.

Counted are the positions from which response tokens are predicted, as often as they are, while the old policy
scores. So the counts depend on no padding, no sharing of prompts, and no split of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.distributed as dist
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.moe.router import TopKRouter
from torch import Tensor

from megaent.actor.parallel import Layout
from megaent.model_folder.architecture import Architecture
from megaent.model_folder.experts import Experts
from megaent.types import Metrics


class ExpertLoad:
    """[L, E] fp64: of each layer and expert, the counted positions whose token went to it."""

    def __init__(
        self, models: Sequence[GPTModel], experts: Experts, *, num_layers: int, layout: Layout
    ) -> None:
        self._layout = layout
        self._count_LE = torch.zeros(num_layers, experts.count, dtype=torch.float64, device=layout.device)
        self._is_counting = False
        self._weight_N = self._count_LE.new_zeros(0)  # how often each position of the microbatch counts
        for model in models:
            model.register_forward_pre_hook(self._begin, with_kwargs=True)
            for module in model.modules():
                if isinstance(module, TopKRouter):
                    module.register_forward_hook(self._count)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Forward passes inside replace the counts of before."""
        self._count_LE.zero_()
        self._is_counting = True
        try:
            yield
        finally:
            self._is_counting = False

    def _begin(self, model: torch.nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]) -> None:
        if self._is_counting:
            weight_N = torch.bincount(kwargs["row"], minlength=args[0].shape[1]).double()
            parts = self._layout.sizes.tp if self._layout.sizes.sequence_parallel else 1
            self._weight_N = weight_N.chunk(parts)[self._layout.tp_group.rank() % parts]

    def _count(self, router: TopKRouter, args: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        if self._is_counting:
            chosen_NE = output[1]
            assert router.layer_number is not None, "Megatron numbers its layers from 1"
            self._count_LE[router.layer_number - 1] += self._weight_N @ chosen_NE.double()

    def metrics(self) -> Metrics:
        """``experts/…`` of docs/metrics.md. A collective over the world, whose ranks hold disjoint counts."""
        total_LE = self._count_LE.clone()
        dist.all_reduce(total_LE)
        return metrics_of(total_LE)


class NoExperts:
    """The load of a model without a choice of experts."""

    def counted(self) -> AbstractContextManager[None]:
        return nullcontext()

    def metrics(self) -> Metrics:
        return {}


def expert_load(
    models: Sequence[GPTModel], architecture: Architecture, layout: Layout
) -> ExpertLoad | NoExperts:
    if architecture.experts is None:
        return NoExperts()
    return ExpertLoad(models, architecture.experts, num_layers=architecture.num_layers, layout=layout)


def metrics_of(count_LE: Tensor) -> Metrics:
    """Of whole counts; every position of a layer goes to equally many experts."""
    mean_L = count_LE.mean(1)
    busiest_L = count_LE.amax(1) / mean_L.clamp(min=torch.finfo(count_LE.dtype).tiny)
    by_layer = {f"experts/busiest_{layer}": value for layer, value in enumerate(busiest_L.tolist())}
    return by_layer | {
        "experts/busiest": float(busiest_L.max()),
        "experts/unused": float((count_LE == 0).double().mean()),
    }
