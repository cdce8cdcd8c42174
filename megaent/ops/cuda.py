"""The row operations in CUDA C++ (``csrc/cuda/``): bf16, fp16 and fp32 on a GPU, one read of the logits each.

``scripts/build_cuda`` compiles them into ``megaent/_CUDA.*.so``; it registers ``torch.ops.megaent_cuda.*``;
what each returns is said in ``megaent.ops.reference``. Every row gives the same bits in any batch and at any
alignment.

Where it differs from the reference: exponentials below 2^-126 count as 0, and spans and shards are summed in
fp64. There is no KL to a reference. The largest logits and the ranks, which are there to be looked at and not
to train on, are the reference's own torch code, an extra read of the logits each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from megaent.ops.compiled import COMPILED_CUDA_OPS
from megaent.ops.divergence import Divergence
from megaent.ops.reference import adjacent, count_above, top_logits
from megaent.ops.rows import fake_logits_stats, fake_stats_combine

if not COMPILED_CUDA_OPS.exists():
    raise ValueError(f"the CUDA ops are not built ({COMPILED_CUDA_OPS} is absent): run ./scripts/build_cuda")
try:
    torch.ops.load_library(COMPILED_CUDA_OPS)
except OSError as error:
    raise RuntimeError(
        f"{COMPILED_CUDA_OPS} does not load with torch {torch.__version__} ({error}): run "
        "./scripts/build_cuda, or name another backend"
    ) from error

__all__ = [
    "count_above",
    "kl_partial",
    "logits_stats",
    "logits_stats_backward",
    "mass_by_digit",
    "stats_combine",
    "top_logits",
]


def logits_stats(
    logits_NV: Tensor, target_N: Tensor, *, vocab_start: int, inv_temperature: float, moments: bool = False
) -> Tensor:
    """Partial statistics of this shard's columns, [5 or 7, N] fp32."""
    return torch.ops.megaent_cuda.logits_stats(
        adjacent(logits_NV), target_N, vocab_start, inv_temperature, moments
    )


def stats_combine(partials: Sequence[Tensor], *, inv_temperature: float) -> Tensor:
    """Statistics of whole rows from the shards' partials, in the order given, [4 or 6, N] fp32."""
    return torch.ops.megaent_cuda.stats_combine(list(partials), inv_temperature)


def logits_stats_backward(
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
) -> Tensor:
    """The gradient of this shard's logits, in their type; ``out`` may be ``logits_NV`` itself."""
    if divergence is not None:
        raise ValueError(_NO_KL)
    rows_NV = adjacent(logits_NV)
    result_NV = torch.empty_like(rows_NV) if out is None else out
    torch.ops.megaent_cuda.logits_stats_backward(
        rows_NV,
        target_N,
        stats,
        grad_log_prob_N,
        grad_entropy_N,
        vocab_start,
        inv_temperature,
        out=result_NV,
    )
    return result_NV


def kl_partial(
    logits_NV: Tensor,
    reference_NV: Tensor,
    partial: Tensor,
    reference_partial: Tensor,
    *,
    inv_temperature: float,
) -> Tensor:
    """Raises ValueError: this backend has none."""
    raise ValueError(_NO_KL)


def mass_by_digit(
    logits_NV: Tensor, max_N: Tensor, prefix_N: Tensor, *, shift: int, inv_temperature: float
) -> Tensor:
    """Raises ValueError: this backend has none."""
    raise ValueError("backend cuda has no nucleus entropy (nucleus_p); name the backend reference")


_NO_KL = "backend cuda has no KL to a reference; name the backend triton or reference"


# ---------------------------------------------------------------- shapes, for torch.compile


torch.library.register_fake("megaent_cuda::logits_stats")(fake_logits_stats)
torch.library.register_fake("megaent_cuda::stats_combine")(fake_stats_combine)


@torch.library.register_fake("megaent_cuda::logits_stats_backward")
def _(logits, target, stats, grad_log_prob, grad_entropy, vocab_start, inv_temperature, *, out):
    return None
