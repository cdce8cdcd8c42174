"""Other weights in a model for a while, as the reference policy's when it scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Swapped:
    """Other weights in the same model for the length of a ``with`` block."""

    def __init__(self, models: Sequence[torch.nn.Module], weights: Sequence[Tensor]) -> None:
        self._parameters = [parameter for model in models for parameter in model.parameters()]
        self._weights = weights

    @torch.no_grad()
    def __enter__(self) -> None:
        self._own = [parameter.detach().clone() for parameter in self._parameters]
        for parameter, weight in zip(self._parameters, self._weights, strict=True):
            parameter.copy_(weight)

    @torch.no_grad()
    def __exit__(self, *_: object) -> None:
        for parameter, weight in zip(self._parameters, self._own, strict=True):
            parameter.copy_(weight)
        del self._own
