"""Statistics of rows of logits from one read of them.

With ``m = max z`` and ``x = (z - m) / temperature``, the partial statistics of a row are m, the number c of
entries equal to m, ``s = sum of exp(x)`` over all others, ``t = sum of exp(x) x``, the target's logit and,
with moments, ``sum of exp(2x)`` and ``sum of exp(x) x^2``. Of several equal maxima some may be in s, 1 each,
and not in c; what counts, ``s + (c - 1)``, is the same. NaN and +inf make a row's m NaN, and with it all that
follows.

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

from megaent_kernels.rows import (
    KEEP_NAN,
    LN2,
    NO_SPECIAL_NUMBERS,
    NOTHING,
    VECTOR_BYTES,
    adjacent,
    is_aligned,
)
from megaent_kernels.stats_combine import spans_merge
from megaent_kernels.tune import ForwardLaunch, forward_launch

COPY_BYTES = 64 * 2**20
"""Rows that do not begin at a multiple of 16 bytes are copied in pieces of this size."""


# ---------------------------------------------------------------- partial statistics


@triton.jit
def _bits_below(z, m, scale):
    """(z - m) / temperature in bits, ``NOTHING`` where z is -inf; m may be -inf too."""
    anchor = tl.where(m == -float("inf"), 0.0, m)
    return tl.maximum((z - anchor) * scale, NOTHING, propagate_nan=KEEP_NAN)


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
    for k in tl.static_range(len(entries)):  # pyright: ignore[reportGeneralTypeIssues]
        best_R = tl.maximum(best_R, entries[k], propagate_nan=KEEP_NAN)
    d_R = _bits_below(m_R, best_R, scale)
    e_R = tl.exp2(d_R)
    if MOMENTS:
        u_R = (u_R + 2 * d_R * t_R + d_R * d_R * r_R) * e_R
        q_R *= e_R * e_R
    t_R = (t_R + d_R * r_R) * e_R
    r_R *= e_R
    so_far_R = m_R  # the compiler sees that these maxima are known already
    for k in tl.static_range(len(entries)):  # pyright: ignore[reportGeneralTypeIssues]
        lesser_R = tl.minimum(so_far_R, entries[k], propagate_nan=KEEP_NAN)
        so_far_R = tl.maximum(so_far_R, entries[k], propagate_nan=KEEP_NAN)
        x_R = _bits_below(lesser_R, best_R, scale)
        e_R = tl.exp2(x_R)
        r_R += e_R
        t_R += e_R * x_R
        if MOMENTS:
            q_R += e_R * e_R
            u_R += e_R * x_R * x_R
    return best_R, r_R, t_R, q_R, u_R


@triton.jit(do_not_specialize=NO_SPECIAL_NUMBERS)
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
    tl.store(out_ptr + 3 * stride_out, t * LN2)
    tl.store(out_ptr + 4 * stride_out, tl.load(z_ptr + y, mask=is_here, other=0.0).to(tl.float32))
    if MOMENTS:
        tl.store(out_ptr + 5 * stride_out, tl.sum((1.0 + q_R) * e_R * e_R, 0))
        u = tl.sum((u_R + 2 * d_R * t_R + d_R * d_R * total_R) * e_R, 0)
        tl.store(out_ptr + 6 * stride_out, u * LN2 * LN2)


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
        for first, piece_NV in _aligned_pieces(adjacent(logits_NV)):
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


def _aligned_pieces(rows_NV: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The rows with the index of the first: themselves if they are aligned, else copies that are.

    One compiled form then serves all, and unaligned rows give the bits of aligned ones.
    """
    if is_aligned(rows_NV):
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
