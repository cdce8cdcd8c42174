"""Partial statistics of several spans or shards made into one: exactly, and in the order they are given.

What the rows hold is said in ``megaent_kernels.logits_stats``. A thread owns a row and sums in fp64, which
costs nothing beside reading the logits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from megaent_kernels.tune import COMBINE_ROWS

_KEEP_NAN = tl.constexpr(tl.PropagateNan.ALL)
_NO_SPECIAL_NUMBERS = ["num_parts", "num_rows"]


@triton.jit
def _merge(part_ptr, num_parts, num_rows, row_B, is_row_B, inv_temperature, MOMENTS: tl.constexpr):
    """Partial statistics of whole rows from those of their parts, fp64, in the order of the parts."""
    stride = (7 if MOMENTS else 5) * num_rows.to(tl.int64)
    m_B = tl.full(row_B.shape, -float("inf"), tl.float32)
    for part in range(num_parts):
        m_part_B = tl.load(part_ptr + part * stride + row_B, mask=is_row_B, other=0.0)
        m_B = tl.maximum(m_B, m_part_B, propagate_nan=_KEEP_NAN)
    m_B = m_B.to(tl.float64)
    c_B = tl.zeros_like(m_B)
    s_B = tl.zeros_like(m_B)
    t_B = tl.zeros_like(m_B)
    y_B = tl.zeros_like(m_B)
    q_B = tl.zeros_like(m_B)
    u_B = tl.zeros_like(m_B)
    for part in range(num_parts):
        at_B = part_ptr + part * stride + row_B
        m_part_B = tl.load(at_B, mask=is_row_B, other=0.0).to(tl.float64)
        c_part_B = tl.load(at_B + num_rows, mask=is_row_B, other=1.0).to(tl.float64)
        s_part_B = tl.load(at_B + 2 * num_rows, mask=is_row_B, other=0.0).to(tl.float64)
        t_part_B = tl.load(at_B + 3 * num_rows, mask=is_row_B, other=0.0).to(tl.float64)
        y_B += tl.load(at_B + 4 * num_rows, mask=is_row_B, other=0.0).to(tl.float64)
        # A part that is -inf throughout has no sums to scale, and (-inf) - (-inf) is NaN.
        has_mass_B = m_part_B > -float("inf")
        d_B = tl.where(has_mass_B, (m_part_B - m_B) * inv_temperature, 0.0)
        e_B = tl.where(has_mass_B, tl.exp(d_B), 0.0)
        # exp(-inf) is 0; its products with -inf would be NaN.
        d_B = tl.where(e_B > 0, d_B, 0.0)
        is_top_B = has_mass_B & (m_part_B == m_B)
        total_B = c_part_B + s_part_B
        c_B += tl.where(is_top_B, c_part_B, 0.0)
        s_B += tl.where(is_top_B, s_part_B, total_B * e_B)
        t_B += (t_part_B + d_B * total_B) * e_B
        if MOMENTS:
            q_B += tl.load(at_B + 5 * num_rows, mask=is_row_B, other=0.0).to(tl.float64) * e_B * e_B
            u_part_B = tl.load(at_B + 6 * num_rows, mask=is_row_B, other=0.0).to(tl.float64)
            u_B += (u_part_B + 2 * d_B * t_part_B + d_B * d_B * total_B) * e_B
    return m_B, c_B, s_B, t_B, y_B, q_B, u_B


@triton.jit(do_not_specialize=_NO_SPECIAL_NUMBERS)
def spans_merge_kernel(
    part_ptr,  # [num_parts, 5 or 7, N] fp32
    out_ptr,  # [5 or 7, N] fp32
    num_parts,
    num_rows,  # N
    inv_temperature,
    ROWS: tl.constexpr,
    MOMENTS: tl.constexpr,
):
    """The partial statistics of a shard from those of its spans."""
    row_B = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    is_row_B = row_B < num_rows
    merged = _merge(part_ptr, num_parts, num_rows, row_B, is_row_B, inv_temperature, MOMENTS)
    for k in tl.static_range(7 if MOMENTS else 5):  # pyright: ignore[reportGeneralTypeIssues]
        tl.store(out_ptr + k * num_rows.to(tl.int64) + row_B, merged[k].to(tl.float32), mask=is_row_B)


@triton.jit
def _log1p(x):
    """fp64; exact to a few roundings for any x >= 0, without a library function."""
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.log(u) * (x / tl.where(u == 1.0, 1.0, u - 1.0)))


@triton.jit(do_not_specialize=_NO_SPECIAL_NUMBERS)
def stats_combine_kernel(
    part_ptr,  # [num_parts, 5 or 7, N] fp32
    out_ptr,  # [4 or 6, N] fp32: log_prob, H, m, log(c + s), sum p^2, variance of log p
    num_parts,
    num_rows,  # N
    inv_temperature,
    ROWS: tl.constexpr,
    MOMENTS: tl.constexpr,
):
    """The statistics of whole rows from the shards' partial ones."""
    row_B = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    is_row_B = row_B < num_rows
    merged = _merge(part_ptr, num_parts, num_rows, row_B, is_row_B, inv_temperature, MOMENTS)
    m_B, c_B, s_B, t_B, y_B, q_B, u_B = merged
    total_B = c_B + s_B
    log_total_B = _log1p(s_B + (c_B - 1))  # s + c - 1 from left to right rounds a small s away
    mean_B = t_B / total_B
    out_ptr += row_B
    stride = num_rows.to(tl.int64)
    log_prob_B = (y_B - m_B) * inv_temperature - log_total_B
    tl.store(out_ptr, log_prob_B.to(tl.float32), mask=is_row_B)
    tl.store(out_ptr + stride, (log_total_B - mean_B).to(tl.float32), mask=is_row_B)
    tl.store(out_ptr + 2 * stride, m_B.to(tl.float32), mask=is_row_B)
    tl.store(out_ptr + 3 * stride, log_total_B.to(tl.float32), mask=is_row_B)
    if MOMENTS:
        tl.store(out_ptr + 4 * stride, (q_B / (total_B * total_B)).to(tl.float32), mask=is_row_B)
        tl.store(out_ptr + 5 * stride, (u_B / total_B - mean_B * mean_B).to(tl.float32), mask=is_row_B)


# ---------------------------------------------------------------- launchers


def spans_merge(part_SKN: Tensor, *, inv_temperature: float) -> Tensor:
    """The partial statistics [K, N] of a shard from those of its spans [S, K, N], both fp32."""
    merged_KN = torch.empty_like(part_SKN[0])
    _launch(spans_merge_kernel, part_SKN, merged_KN, inv_temperature)
    return merged_KN


def stats_combine(partials: Sequence[Tensor], *, inv_temperature: float) -> Tensor:
    """Statistics of whole rows from the shards' partial ones, [4 or 6, N] fp32."""
    part_SKN = partials[0][None] if len(partials) == 1 else torch.stack(list(partials))
    _, rows, num_rows = part_SKN.shape
    stats = torch.empty(rows - 1, num_rows, dtype=torch.float32, device=part_SKN.device)
    _launch(stats_combine_kernel, part_SKN.contiguous(), stats, inv_temperature)
    return stats


def _launch(kernel, part_SKN: Tensor, out: Tensor, inv_temperature: float) -> None:
    num_parts, rows, num_rows = part_SKN.shape
    if num_rows == 0:
        return
    with torch.cuda.device_of(part_SKN):
        kernel[(-(-num_rows // COMBINE_ROWS),)](
            part_SKN,
            out,
            num_parts,
            num_rows,
            inv_temperature,
            ROWS=COMBINE_ROWS,
            MOMENTS=rows == 7,
            num_warps=COMBINE_ROWS // 32,
        )
