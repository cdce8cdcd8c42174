"""The row operations in C++ (``csrc/cpu/``): one read of the logits, fp32 and bf16, threads as torch's.

``scripts/build_ops`` compiles them into ``megaent/_C.*.so``, which registers ``torch.ops.megaent.*``; what
each returns is said in ``megaent.ops.reference``. Every row gives the same bits however rows are split over
threads and calls. The environment variable ``MEGAENT_OPS_SIMD`` (scalar, avx2 or avx512) names the
instruction level; without it the highest one that the processor has is taken.

Where it differs from the reference: exponentials below 2^-124 count as 0, and sums over blocks and shards
are fp64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from megaent.ops.compiled import COMPILED_OPS
from megaent.ops.divergence import KL_ROWS, Divergence
from megaent.ops.reference import NUM_TOP, adjacent
from megaent.ops.rows import NUM_DIGITS, fake_logits_stats, fake_stats_combine

if not COMPILED_OPS.exists():
    raise ValueError(f"the C++ ops are not built ({COMPILED_OPS} is absent): run ./scripts/build_ops")
try:
    torch.ops.load_library(COMPILED_OPS)
except OSError as error:
    raise RuntimeError(
        f"{COMPILED_OPS} does not load with torch {torch.__version__} ({error}): run ./scripts/build_ops, "
        "or set MEGAENT_OPS_BACKEND=reference"
    ) from error


def logits_stats(
    logits_NV: Tensor, target_N: Tensor, *, vocab_start: int, inv_temperature: float, moments: bool = False
) -> Tensor:
    """Partial statistics of this shard's columns, [5 or 7, N] fp32."""
    return torch.ops.megaent.logits_stats(
        adjacent(logits_NV), target_N, vocab_start, inv_temperature, moments
    )


def stats_combine(partials: Sequence[Tensor], *, inv_temperature: float) -> Tensor:
    """Statistics of whole rows from the shards' partials, in the order given, [4 or 6, N] fp32."""
    return torch.ops.megaent.stats_combine(list(partials), inv_temperature)


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
    rows_NV = adjacent(logits_NV)
    result_NV = torch.empty_like(rows_NV) if out is None else out
    reference_NV, kl_stats, grad_kl_N = (None, None, None) if divergence is None else divergence
    torch.ops.megaent.logits_stats_backward(
        rows_NV,
        target_N,
        stats,
        grad_log_prob_N,
        grad_entropy_N,
        None if reference_NV is None else adjacent(reference_NV),
        kl_stats,
        grad_kl_N,
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
    """KL and the parts of rho of this shard, [3, N] fp32, as ``megaent.ops.divergence`` says."""
    return torch.ops.megaent.kl_partial(
        adjacent(logits_NV), adjacent(reference_NV), partial, reference_partial, inv_temperature
    )


def top_logits(logits_NV: Tensor) -> Tensor:
    """The largest logits of every row, falling, [8, N] fp32; -inf where there are fewer columns."""
    return torch.ops.megaent.top_logits(adjacent(logits_NV))


def count_above(logits_NV: Tensor, bound_N: Tensor) -> Tensor:
    """[N] int64 entries of every row that are strictly larger than its ``bound``."""
    return torch.ops.megaent.count_above(adjacent(logits_NV), bound_N)


def mass_by_digit(
    logits_NV: Tensor, max_N: Tensor, prefix_N: Tensor, *, shift: int, inv_temperature: float
) -> Tensor:
    """[N, 256] int64, what the digits of a logit at ``shift`` have of the mass, in units of 2^-40."""
    return torch.ops.megaent.mass_by_digit(adjacent(logits_NV), max_N, prefix_N, shift, inv_temperature)


def segment_support(
    token_L: Tensor, start_K: Tensor, stop_K: Tensor, owner_K: Tensor, correct_R: Tensor
) -> tuple[Tensor, Tensor]:
    """For every token what the segments that come back in other responses tell.

    ``token_L`` int64 of one group, packed; segment k is ``[start, stop)`` of response ``owner``, segments in
    the order of places; ``correct_R`` bool. A segment is a pattern, and it counts for every token of its
    occurrences inside segments. Returns ``same_L`` int64, the most responses that hold a pattern over the
    token which responses of one correctness alone hold, or 0 where only one response does, and
    ``is_shared_L`` bool, whether responses of both hold one. Raises RuntimeError for segments that overlap
    or lie outside.
    """
    return torch.ops.megaent.segment_support(token_L, start_K, stop_K, owner_K, correct_R)


def simd_level() -> str:
    """The instruction level in use: scalar, avx2 or avx512."""
    return torch.ops.megaent.simd_level()


# ---------------------------------------------------------------- shapes, for torch.compile


torch.library.register_fake("megaent::logits_stats")(fake_logits_stats)
torch.library.register_fake("megaent::stats_combine")(fake_stats_combine)


@torch.library.register_fake("megaent::logits_stats_backward")
def _(
    logits,
    target,
    stats,
    grad_log_prob,
    grad_entropy,
    reference,
    kl_stats,
    grad_kl,
    vocab_start,
    inv_temperature,
    *,
    out,
):
    return None


@torch.library.register_fake("megaent::kl_partial")
def _(logits, reference, partial, reference_partial, inv_temperature):
    return partial.new_empty(KL_ROWS, logits.shape[0])


@torch.library.register_fake("megaent::top_logits")
def _(logits):
    return logits.new_empty(NUM_TOP, logits.shape[0], dtype=torch.float32)


@torch.library.register_fake("megaent::count_above")
def _(logits, bound):
    return logits.new_empty(logits.shape[0], dtype=torch.int64)


@torch.library.register_fake("megaent::mass_by_digit")
def _(logits, max, prefix, shift, inv_temperature):
    return logits.new_empty(logits.shape[0], NUM_DIGITS, dtype=torch.int64)


@torch.library.register_fake("megaent::segment_support")
def _(token, start, stop, owner, is_correct):
    return token.new_empty(token.shape), token.new_empty(token.shape, dtype=torch.bool)
