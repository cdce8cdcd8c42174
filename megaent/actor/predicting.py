"""How often each position of the microbatch under way predicts a response token.

A prompt that stands once before several responses predicts the first token of each, and padding predicts
nothing. What is summed over positions with these counts depends on no split of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from megaent.actor.parallel import Layout


class PredictingPositions:
    """Of the part of the microbatch that this rank's routers see."""

    def __init__(self, models: Sequence[torch.nn.Module], layout: Layout) -> None:
        self._layout = layout
        self.count_N = torch.zeros(0, dtype=torch.float64, device=layout.device)
        for model in models:
            model.register_forward_pre_hook(self._begin, with_kwargs=True)

    def _begin(self, model: torch.nn.Module, args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]) -> None:
        row = kwargs["row"]
        count_N = torch.zeros(args[0].shape[1], dtype=torch.float64, device=row.device)
        count_N.index_add_(0, row, torch.ones_like(row, dtype=torch.float64))
        parts = self._layout.sizes.tp if self._layout.sizes.sequence_parallel else 1
        self.count_N = count_N.chunk(parts)[self._layout.tp_group.rank() % parts]
