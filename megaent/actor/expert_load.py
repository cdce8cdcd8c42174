"""How evenly the routers of a mixture spread tokens over experts.

Counted are the positions from which response tokens are predicted, as often as they are, while the old policy
scores. So the counts depend on no padding, no sharing of prompts, and no split of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from megaent.actor.parallel import Layout
from megaent.actor.predicting import PredictingPositions
from megaent.actor.router import Router, layer_of
from megaent.types import Metrics


class ExpertLoad:
    """``count_LE`` [L, E] fp64: of each layer and expert, the counted positions whose token went to it."""

    def __init__(
        self,
        routers: Sequence[Router],
        positions: PredictingPositions,
        *,
        num_layers: int,
        num_experts: int,
        layout: Layout,
    ) -> None:
        self._positions = positions
        self.count_LE = torch.zeros(num_layers, num_experts, dtype=torch.float64, device=layout.device)
        self._is_counting = False
        for router in routers:
            router.register_forward_hook(self._count)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Forward passes inside replace the counts of before. A collective over the world, whose ranks hold
        disjoint ones; each has all of them afterwards.
        """
        self.count_LE.zero_()
        self._is_counting = True
        try:
            yield
        finally:
            self._is_counting = False
        dist.all_reduce(self.count_LE)

    def _count(self, router: Router, args: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        if self._is_counting:
            chosen_NE = output[1]
            self.count_LE[layer_of(router)] += self._positions.count_N @ chosen_NE.double()

    def metrics(self) -> Metrics:
        """``experts/…`` of docs/metrics.md; every position of a layer goes to equally many experts."""
        mean_L = self.count_LE.mean(1)
        busiest_L = self.count_LE.amax(1) / mean_L.clamp(min=torch.finfo(mean_L.dtype).tiny)
        by_layer = {f"experts/busiest_{layer}": value for layer, value in enumerate(busiest_L.tolist())}
        return by_layer | {
            "experts/busiest": float(busiest_L.max()),
            "experts/unused": float((self.count_LE == 0).double().mean()),
        }
