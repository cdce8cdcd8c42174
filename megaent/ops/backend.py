"""Which implementation an op runs: named explicitly, logged once, never changed behind one's back."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

_MODULES = {"reference": "megaent.ops.reference"}

log = logging.getLogger(__name__)


class Backend(Protocol):
    """The three row operations; every quantity and layout is said in ``megaent.ops.reference``."""

    def logits_stats(
        self, logits_NV: Tensor, target_N: Tensor, *, vocab_start: int, inv_temperature: float, moments: bool
    ) -> Tensor: ...

    def stats_combine(self, partials: Sequence[Tensor], *, inv_temperature: float) -> Tensor: ...

    def logits_stats_backward(
        self,
        logits_NV: Tensor,
        target_N: Tensor,
        stats: Tensor,
        *,
        grad_log_prob_N: Tensor | None,
        grad_entropy_N: Tensor | None,
        vocab_start: int,
        inv_temperature: float,
    ) -> Tensor: ...


def available_backends() -> tuple[str, ...]:
    """Names that ``backend=`` accepts in this installation."""
    return tuple(_MODULES)


@functools.cache
def get_backend(name: str | None = None) -> Backend:
    """The module behind ``name``; None takes the default, which is ``reference``.

    Raises ValueError for a name that is not installed; there is no fallback.
    """
    chosen = name or "reference"
    if chosen not in _MODULES:
        raise ValueError(f"backend must be one of {', '.join(_MODULES)}, got {chosen!r}")
    log.info("megaent.ops backend: %s", chosen)
    return importlib.import_module(_MODULES[chosen])  # type: ignore[return-value]
