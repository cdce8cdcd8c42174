"""Which implementation an op runs: named explicitly, logged once, never changed behind one's back.

The name is the argument ``backend=`` or, without one, the environment variable ``MEGAENT_OPS_BACKEND``.
A named backend that is not built or cannot serve the tensors is an error. Where none is named, fp32 and
bf16 tensors on the CPU take ``cpu`` if it is built, and all others ``reference``. ``triton`` and ``cuda`` are
taken only where they are named: no card has run them yet.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from megaent.ops.compiled import COMPILED_CUDA_OPS, COMPILED_OPS
from megaent.ops.divergence import Divergence

# Looked at once: torch.compile cannot look at a disk.
_IS_THERE = {
    "reference": True,
    "cpu": COMPILED_OPS.exists(),
    "triton": importlib.util.find_spec("triton") is not None,
    "cuda": COMPILED_CUDA_OPS.exists(),
}
_HINTS = {
    "cpu": "; ./scripts/build_ops builds cpu",
    "triton": "; `pip install triton` adds triton",
    "cuda": "; ./scripts/build_cuda builds cuda where torch has CUDA",
}

log = logging.getLogger(__name__)


class _Served(NamedTuple):
    devices: tuple[str, ...] | None  # None: all
    dtypes: tuple[torch.dtype, ...] | None


_BACKENDS = {
    "reference": _Served(None, None),
    "cpu": _Served(("cpu",), (torch.float32, torch.bfloat16)),
    "triton": _Served(("cuda",), (torch.float32, torch.bfloat16, torch.float16)),
    "cuda": _Served(("cuda",), (torch.float32, torch.bfloat16, torch.float16)),
}


class Backend(Protocol):
    """The row operations; every quantity and layout is said in ``megaent.ops.reference``."""

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
        divergence: Divergence | None = None,
        out: Tensor | None = None,
    ) -> Tensor: ...

    def kl_partial(
        self,
        logits_NV: Tensor,
        reference_NV: Tensor,
        partial: Tensor,
        reference_partial: Tensor,
        *,
        inv_temperature: float,
    ) -> Tensor: ...

    def top_logits(self, logits_NV: Tensor) -> Tensor: ...

    def count_above(self, logits_NV: Tensor, bound_N: Tensor) -> Tensor: ...

    def mass_by_digit(
        self, logits_NV: Tensor, max_N: Tensor, prefix_N: Tensor, *, shift: int, inv_temperature: float
    ) -> Tensor: ...


def available_backends() -> tuple[str, ...]:
    """Names that ``backend=`` accepts in this installation."""
    return tuple(name for name in _BACKENDS if _IS_THERE[name])


def get_backend(name: str | None = None, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Backend:
    """The module behind ``name`` for tensors of a type on a kind of device.

    Raises ValueError for a name that is unknown, not built or does not serve them; there is no fallback.
    Under ``torch.compile`` the choice is made once, when the graph is made.
    """
    # Imports rather than a table of modules, so that torch.compile can look through them.
    chosen = _choose(name, device, dtype)
    if chosen == "cpu":
        from megaent.ops import cpu

        return cpu
    if chosen == "triton":
        from megaent.ops import triton

        return triton
    if chosen == "cuda":
        from megaent.ops import cuda

        return cuda
    from megaent.ops import reference

    return reference


def _choose(name: str | None, device: str, dtype: torch.dtype) -> str:
    asked = name or os.environ.get("MEGAENT_OPS_BACKEND") or None
    chosen = _default(device, dtype) if asked is None else asked
    if chosen not in available_backends():
        raise ValueError(not_there(chosen))
    if not _serves(chosen, device, dtype):
        devices, dtypes = _BACKENDS[chosen]
        raise ValueError(
            f"backend {chosen} serves {', '.join(map(str, dtypes or ()))} on {', '.join(devices or ())}, "
            f"got {dtype} on {device}; name reference, or none"
        )
    if not torch.compiler.is_compiling():
        announce("backend", chosen)
    return chosen


def _default(device: str, dtype: torch.dtype) -> str:
    is_compiled = "cpu" in available_backends() and _serves("cpu", device, dtype)
    return "cpu" if is_compiled else "reference"


def _serves(name: str, device: str, dtype: torch.dtype) -> bool:
    devices, dtypes = _BACKENDS[name]
    return (devices is None or device in devices) and (dtypes is None or dtype in dtypes)


def not_there(name: str) -> str:
    return f"backend must be one of {', '.join(available_backends())}, got {name!r}{_HINTS.get(name, '')}"


@functools.cache
def announce(what: str, name: str) -> None:
    log.info("megaent.ops %s: %s", what, name)
