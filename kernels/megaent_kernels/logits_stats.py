"""Statistics of rows of logits and their gradient, each from one read of the logits.

With ``m = max z`` and ``x = (z - m) / temperature``, the partial statistics of a row are m, the number c of
entries equal to m, ``s = sum of exp(x)`` over all others, ``t = sum of exp(x) x``, the target's logit and,
with moments, ``sum of exp(2x)`` and ``sum of exp(x) x^2``. Of several equal maxima some may be in s, 1 each,
and not in c; what counts, ``s + (c - 1)``, is the same. Inside the kernels x is in bits, so that exp2
serves; every stored row is in nats. NaN and +inf make a row's m NaN, and with it all that follows.

A program owns a span of one row. Its lanes each keep statistics of their own and meet once, at the end;
spans are then merged in their order. Both depend on the width of the row alone: a row gives the same bits in
any batch. Nothing is written by two programs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from megaent_kernels.stats_combine import spans_merge
from megaent_kernels.tune import BackwardLaunch, ForwardLaunch, backward_launch, forward_launch

VECTOR_BYTES = 16
"""What one thread loads at once."""

COPY_BYTES = 64 * 2**20
"""Rows that do not begin at a multiple of 16 bytes are copied in pieces of this size."""

_LOG2E = tl.constexpr(math.log2(math.e))
_LN2 = tl.constexpr(math.log(2.0))
# exp2 of it is 0, and 0 times it is 0: what -inf must contribute, where (-inf) * 0 would be NaN.
_NOTHING = tl.constexpr(-1000.0)
_KEEP_NAN = tl.constexpr(tl.PropagateNan.ALL)

# One compiled form for all sizes; that a number is 1 or a multiple of 16 makes no difference here.
_NO_SPECIAL_NUMBERS = [
    "num_rows",
    "num_columns",
    "row_vectors",
    "row_vectors_z",
    "row_vectors_out",
    "stride_out",
    "vocab_start",
    "num_spans",
    "span_vectors",
    "num_blocks",
]


# ---------------------------------------------------------------- partial statistics


@triton.jit
def _bits_below(z, m, scale):
    """(z - m) / temperature in bits, ``_NOTHING`` where z is -inf; m may be -inf too."""
    anchor = tl.where(m == -float("inf"), 0.0, m)
    return tl.maximum((z - anchor) * scale, _NOTHING, propagate_nan=_KEEP_NAN)


@triton.jit
def _columns(z_RK, LANES: tl.constexpr, VECTOR: tl.constexpr):
    """The VECTOR entries of every lane as that many [R]."""
    if VECTOR == 1:
        columns = (tl.reshape(z_RK, (LANES,)),)
    else:
        even_RP, odd_RP = tl.split(tl.reshape(z_RK, (LANES, VECTOR // 2, 2)))
        columns = _columns(even_RP, LANES, VECTOR // 2) + _columns(odd_RP, LANES, VECTOR // 2)
    return columns


@triton.jit
def _absorb(m_R, r_R, t_R, q_R, u_R, z_RK, scale, LANES: tl.constexpr, MOMENTS: tl.constexpr):
    """The lanes' statistics after each has seen K more entries; nothing crosses lanes.

    A lane's sums leave out its maximum m. Each entry meets the maximum so far: the greater goes on, the
    lesser is summed, be it the old maximum. So the term exp(0) = 1, in which small ones would drown, is
    never added, and no entry is compared with the maximum again.
    """
    entries = _columns(z_RK, LANES, z_RK.shape[1])
    best_R = m_R
    for k in tl.static_range(len(entries)):
        best_R = tl.maximum(best_R, entries[k], propagate_nan=_KEEP_NAN)
    d_R = _bits_below(m_R, best_R, scale)
    e_R = tl.exp2(d_R)
    if MOMENTS:
        u_R = (u_R + 2 * d_R * t_R + d_R * d_R * r_R) * e_R
        q_R *= e_R * e_R
    t_R = (t_R + d_R * r_R) * e_R
    r_R *= e_R
    so_far_R = m_R  # the compiler sees that these maxima are known already
    for k in tl.static_range(len(entries)):
        lesser_R = tl.minimum(so_far_R, entries[k], propagate_nan=_KEEP_NAN)
        so_far_R = tl.maximum(so_far_R, entries[k], propagate_nan=_KEEP_NAN)
        x_R = _bits_below(lesser_R, best_R, scale)
        e_R = tl.exp2(x_R)
        r_R += e_R
        t_R += e_R * x_R
        if MOMENTS:
            q_R += e_R * e_R
            u_R += e_R * x_R * x_R
    return best_R, r_R, t_R, q_R, u_R


@triton.jit(do_not_specialize=_NO_SPECIAL_NUMBERS)
def logits_stats_fwd_kernel(
    z_ptr,  # [N, V], at a multiple of 16 bytes
    target_ptr,  # [N] int64, ids in the whole vocabulary
    out_ptr,  # [num_spans, 5 or 7, N] fp32: m, c, s, t, z_y and the moments of each span
    num_columns,  # V
    row_vectors,  # distance of two rows of z in units of 16 bytes
    stride_out,  # distance of two rows of out in entries
    vocab_start,  # id of column 0
    scale,  # log2(e) / temperature
    num_spans,
    span_vectors,  # columns of one program in units of VECTOR, a multiple of LANES
    LANES: tl.constexpr,
    VECTOR: tl.constexpr,  # entries in 16 bytes
    MOMENTS: tl.constexpr,
):
    """One span of one row. Bytes moved: those of the span."""
    row = (tl.program_id(0) // num_spans).to(tl.int64)
    part = tl.program_id(0) % num_spans
    z_ptr += row * row_vectors * VECTOR
    # Written as products with VECTOR, for the compiler to see that every address is a multiple of 16 bytes.
    start = part * span_vectors * VECTOR
    stop = tl.minimum(start + span_vectors * VECTOR, num_columns)
    tile_RK = tl.arange(0, LANES)[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]
    m_R = tl.full((LANES,), -float("inf"), tl.float32)
    r_R = tl.zeros((LANES,), tl.float32)
    t_R = tl.zeros((LANES,), tl.float32)
    q_R = tl.zeros((LANES,), tl.float32)
    u_R = tl.zeros((LANES,), tl.float32)
    num_tiles = (stop - start) // (LANES * VECTOR)
    for tile in range(num_tiles):
        column = start + tile * (LANES * VECTOR)
        z_RK = tl.load(z_ptr + column + tile_RK, eviction_policy="evict_first").to(tl.float32)
        m_R, r_R, t_R, q_R, u_R = _absorb(m_R, r_R, t_R, q_R, u_R, z_RK, scale, LANES, MOMENTS)
    ragged = start + num_tiles * (LANES * VECTOR)
    if ragged < stop:
        # Under a mask loads may be narrower than 16 bytes; the order of the sums is the same.
        column_RK = ragged + tile_RK
        z_RK = tl.load(z_ptr + column_RK, mask=column_RK < stop, other=-float("inf")).to(tl.float32)
        m_R, r_R, t_R, q_R, u_R = _absorb(m_R, r_R, t_R, q_R, u_R, z_RK, scale, LANES, MOMENTS)

    m = tl.max(m_R, 0)
    d_R = _bits_below(m_R, m, scale)
    e_R = tl.exp2(d_R)
    total_R = 1.0 + r_R  # where a lane has seen nothing, e is 0
    t = tl.sum((t_R + d_R * total_R) * e_R, 0)
    y = tl.load(target_ptr + row) - vocab_start
    is_here = (y >= start) & (y < stop)
    out_ptr += (part * (7 if MOMENTS else 5)).to(tl.int64) * stride_out + row
    # The maximum passes NaN over, this sum does not.
    tl.store(out_ptr, tl.where(t == t, m, t))
    tl.store(out_ptr + stride_out, tl.sum(tl.where(d_R == 0, 1.0, 0.0), 0))
    tl.store(out_ptr + 2 * stride_out, tl.sum(tl.where(d_R == 0, r_R, total_R * e_R), 0))
    tl.store(out_ptr + 3 * stride_out, t * _LN2)
    tl.store(out_ptr + 4 * stride_out, tl.load(z_ptr + y, mask=is_here, other=0.0).to(tl.float32))
    if MOMENTS:
        tl.store(out_ptr + 5 * stride_out, tl.sum((1.0 + q_R) * e_R * e_R, 0))
        u = tl.sum((u_R + 2 * d_R * t_R + d_R * d_R * total_R) * e_R, 0)
        tl.store(out_ptr + 6 * stride_out, u * _LN2 * _LN2)


# ---------------------------------------------------------------- gradient


@triton.jit
def _gradient(z_B, m, log_total, at_zero, slope, scale):
    """-p (at_zero + slope log2 p) of a block of columns, fp32."""
    x_B = (z_B - m) * scale - log_total
    x_B = tl.maximum(x_B, _NOTHING, propagate_nan=_KEEP_NAN)
    return -tl.exp2(x_B) * (at_zero + slope * x_B)


@triton.jit(do_not_specialize=_NO_SPECIAL_NUMBERS)
def logits_stats_bwd_kernel(
    z_ptr,  # [N, V]
    out_ptr,  # [N, V] in the type of z; may be z
    target_ptr,  # [N] int64, ids in the whole vocabulary
    stats_ptr,  # [4 or 6, N] fp32: log_prob, H, m, log(c + s)
    grad_log_prob_ptr,  # [N] fp32, read if HAS_LOG_PROB
    grad_entropy_ptr,  # [N] fp32, read if HAS_ENTROPY
    num_rows,  # N
    num_columns,  # V
    row_vectors_z,  # distance of two rows in units of VECTOR entries
    row_vectors_out,
    vocab_start,  # id of column 0
    inv_temperature,
    scale,  # log2(e) / temperature
    num_blocks,
    BLOCK: tl.constexpr,
    VECTOR: tl.constexpr,  # entries in 16 bytes, or 1 where rows do not begin at such multiples
    HAS_LOG_PROB: tl.constexpr,
    HAS_ENTROPY: tl.constexpr,
):
    """dz = 1/temperature (g_lp (1_y - p) - g_H p (log p + H)). Bytes moved: z read, dz written."""
    row = (tl.program_id(0) // num_blocks).to(tl.int64)
    start = (tl.program_id(0) % num_blocks) * BLOCK
    stats_ptr += row
    stride = num_rows.to(tl.int64)
    m = tl.load(stats_ptr + 2 * stride)
    log_total = tl.load(stats_ptr + 3 * stride) * _LOG2E
    at_zero = 0.0
    slope = 0.0
    pull = 0.0
    if HAS_LOG_PROB:
        pull = tl.load(grad_log_prob_ptr + row) * inv_temperature
        at_zero += pull
    if HAS_ENTROPY:
        g_entropy = tl.load(grad_entropy_ptr + row) * inv_temperature
        at_zero += g_entropy * tl.load(stats_ptr + stride)
        slope += g_entropy * _LN2
    column_B = start + tl.arange(0, BLOCK)
    y = tl.load(target_ptr + row) - vocab_start
    z_ptr += row * row_vectors_z * VECTOR
    out_ptr += row * row_vectors_out * VECTOR
    # Only blocks inside the row are free of a mask, and only without one are loads 16 bytes wide.
    if start + BLOCK <= num_columns:
        z_B = tl.load(z_ptr + column_B, eviction_policy="evict_first").to(tl.float32)
        dz_B = _gradient(z_B, m, log_total, at_zero, slope, scale)
        if HAS_LOG_PROB:  # noqa: SIM102  known when compiled, unlike the next
            if (y >= start) & (y < start + BLOCK):
                dz_B += tl.where(column_B == y, pull, 0.0)
        tl.store(out_ptr + column_B, dz_B.to(out_ptr.dtype.element_ty))
    else:
        is_column_B = column_B < num_columns
        z_B = tl.load(z_ptr + column_B, mask=is_column_B, other=-float("inf")).to(tl.float32)
        dz_B = _gradient(z_B, m, log_total, at_zero, slope, scale)
        if HAS_LOG_PROB:
            dz_B += tl.where(column_B == y, pull, 0.0)
        tl.store(out_ptr + column_B, dz_B.to(out_ptr.dtype.element_ty), mask=is_column_B)


# ---------------------------------------------------------------- launchers


def logits_stats(
    logits_NV: Tensor,
    target_N: Tensor,
    *,
    vocab_start: int,
    inv_temperature: float,
    moments: bool = False,
    launch: ForwardLaunch | None = None,
) -> Tensor:
    """Partial statistics of this shard's columns, [5 or 7, N] fp32; ``launch`` replaces the table's choice.

    ``logits_NV`` bf16, fp16 or fp32 and ``target_N`` int64 on one device. Logits whose columns are not
    adjacent are copied whole, rows that do not begin at a multiple of 16 bytes in pieces.
    """
    (num_rows, num_columns), rows = logits_NV.shape, 7 if moments else 5
    if num_rows == 0 or num_columns == 0:
        partial = logits_NV.new_zeros(rows, num_rows, dtype=torch.float32)
        partial[0] = -torch.inf
        return partial
    lanes, span, num_warps = launch or forward_launch(num_columns)
    vector, num_spans = VECTOR_BYTES // logits_NV.itemsize, -(-num_columns // span)
    part_SKN = torch.empty(num_spans, rows, num_rows, dtype=torch.float32, device=logits_NV.device)
    target_N = target_N.contiguous()
    with torch.cuda.device_of(logits_NV):
        for first, piece_NV in _aligned_pieces(_adjacent(logits_NV)):
            program: Any = logits_stats_fwd_kernel[(piece_NV.shape[0] * num_spans,)]
            program(
                piece_NV,
                target_N[first:],
                part_SKN[:, :, first:],
                num_columns,
                piece_NV.stride(0) // vector,
                num_rows,
                vocab_start,
                inv_temperature * math.log2(math.e),
                num_spans,
                span // vector,
                LANES=lanes,
                VECTOR=vector,
                MOMENTS=moments,
                num_warps=num_warps,
            )
    return part_SKN[0] if num_spans == 1 else spans_merge(part_SKN, inv_temperature=inv_temperature)


def logits_stats_backward(
    logits_NV: Tensor,
    target_N: Tensor,
    stats: Tensor,
    out: Tensor,
    *,
    grad_log_prob_N: Tensor | None,
    grad_entropy_N: Tensor | None,
    vocab_start: int,
    inv_temperature: float,
    launch: BackwardLaunch | None = None,
) -> None:
    """The gradient of this shard's logits into ``out`` [N, V] of their type, which may be ``logits_NV``."""
    num_rows, num_columns = logits_NV.shape
    if num_rows == 0 or num_columns == 0:
        return
    z_NV = _adjacent(logits_NV)
    dz_NV = out if num_columns == 1 or out.stride(1) == 1 else torch.empty_like(z_NV)
    block, num_warps = launch or backward_launch(num_columns)
    vector = VECTOR_BYTES // z_NV.itemsize if _is_aligned(z_NV) and _is_aligned(dz_NV) else 1
    num_blocks = -(-num_columns // block)
    with torch.cuda.device_of(z_NV):
        program: Any = logits_stats_bwd_kernel[(num_rows * num_blocks,)]
        program(
            z_NV,
            dz_NV,
            target_N.contiguous(),
            stats.contiguous(),
            None if grad_log_prob_N is None else grad_log_prob_N.float().contiguous(),
            None if grad_entropy_N is None else grad_entropy_N.float().contiguous(),
            num_rows,
            num_columns,
            z_NV.stride(0) // vector,
            dz_NV.stride(0) // vector,
            vocab_start,
            inv_temperature,
            inv_temperature * math.log2(math.e),
            num_blocks,
            BLOCK=block,
            VECTOR=vector,
            HAS_LOG_PROB=grad_log_prob_N is not None,
            HAS_ENTROPY=grad_entropy_N is not None,
            num_warps=num_warps,
        )
    if dz_NV is not out:
        out.copy_(dz_NV)


def _adjacent(rows_NV: Tensor) -> Tensor:
    return rows_NV if rows_NV.shape[1] == 1 or rows_NV.stride(1) == 1 else rows_NV.contiguous()


def _is_aligned(rows_NV: Tensor) -> bool:
    """Whether every row begins at a multiple of 16 bytes."""
    distance = rows_NV.stride(0) * rows_NV.itemsize
    return rows_NV.data_ptr() % VECTOR_BYTES == 0 and distance % VECTOR_BYTES == 0


def _aligned_pieces(rows_NV: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The rows with the index of the first: themselves if they are aligned, else copies that are.

    One compiled form then serves all, and unaligned rows give the bits of aligned ones.
    """
    if _is_aligned(rows_NV):
        yield 0, rows_NV
        return
    num_rows, num_columns = rows_NV.shape
    vector = VECTOR_BYTES // rows_NV.itemsize
    width = -(-num_columns // vector) * vector
    height = min(num_rows, max(1, COPY_BYTES // (width * rows_NV.itemsize)))
    buffer_NV = torch.empty(height, width, dtype=rows_NV.dtype, device=rows_NV.device)[:, :num_columns]
    for first in range(0, num_rows, height):
        piece_NV = rows_NV[first : first + height]
        yield first, buffer_NV[: piece_NV.shape[0]].copy_(piece_NV)
