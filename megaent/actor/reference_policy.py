"""The reference policy: a copy of the weights on the CPU, in the model's place while it is scored against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from megaent.errors import ConfigError


class ReferencePolicy:
    """Of one rank: its part of every weight. While it stands in, the policy's own weights wait on the CPU, so
    that the card never holds both.
    """

    digest: str | None = None  # of its weight files; None where none is kept

    def __init__(self, models: Sequence[torch.nn.Module]) -> None:
        self._parameters = [parameter for model in models for parameter in model.parameters()]
        self._kept: list[Tensor] | None = None

    def keep(self, digest: str) -> None:
        """Take the present weights, whose files have this ``digest``."""
        self._kept = self._copied()
        self.digest = digest

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Its weights in the model for a ``with`` block. Raises ConfigError where none is kept."""
        if self._kept is None:
            raise ConfigError(
                "a reference policy was asked for, but none was kept; call keep_reference first"
            )
        own = self._copied()
        self._put(self._kept)
        try:
            yield
        finally:
            self._put(own)

    def _copied(self) -> list[Tensor]:
        return [parameter.detach().to("cpu", copy=True) for parameter in self._parameters]

    @torch.no_grad()
    def _put(self, weights: list[Tensor]) -> None:
        for parameter, weight in zip(self._parameters, weights, strict=True):
            parameter.copy_(weight)
