"""The gradient of rows of logits, from one read of them and of the reference's if there is one.

``stats`` are those of ``megaent_kernels.stats_combine``, ``kl_stats`` [2, N] KL of every row and rho, the log
of the reference's mass ``sum of exp(z_ref / temperature)`` over the policy's. Nothing is written by two
programs.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from megaent_kernels.rows import (
    KEEP_NAN,
    LN2,
    LOG2E,
    NO_SPECIAL_NUMBERS,
    NOTHING,
    VECTOR_BYTES,
    adjacent,
    is_aligned,
)
from megaent_kernels.tune import BackwardLaunch, backward_launch


class Reference(NamedTuple):
    """What the gradient of KL needs."""

    logits_NV: Tensor  # in the type of the policy's
    kl_stats: Tensor  # [2, N] fp32
    grad_N: Tensor


@triton.jit
def _gradient(
    z_B, ref_B, m, log_total, at_zero, slope, scale, inv_temperature, g_kl, rho, HAS_KL: tl.constexpr
):
    """-p (at_zero + slope log2 p), and g_kl p d more with a reference, of a block of columns, fp32."""
    x_B = (z_B - m) * scale - log_total
    x_B = tl.maximum(x_B, NOTHING, propagate_nan=KEEP_NAN)
    p_B = tl.exp2(x_B)
    factor_B = at_zero + slope * x_B
    if HAS_KL:
        d_B = (z_B - ref_B) * inv_temperature + rho
        factor_B = tl.where(p_B == 0, 0.0, factor_B - g_kl * d_B)  # d may be (-inf) - (-inf)
    return -p_B * factor_B


@triton.jit(do_not_specialize=NO_SPECIAL_NUMBERS)
def logits_stats_bwd_kernel(
    z_ptr,  # [N, V]
    out_ptr,  # [N, V] in the type of z; may be z
    ref_ptr,  # [N, V] in the type of z, read if HAS_KL
    target_ptr,  # [N] int64, ids in the whole vocabulary
    stats_ptr,  # [4 or 6, N] fp32: log_prob, H, m, log(c + s)
    kl_stats_ptr,  # [2, N] fp32: KL, rho; read if HAS_KL
    grad_log_prob_ptr,  # [N] fp32, read if HAS_LOG_PROB
    grad_entropy_ptr,  # [N] fp32, read if HAS_ENTROPY
    grad_kl_ptr,  # [N] fp32, read if HAS_KL
    num_rows,  # N
    num_columns,  # V
    row_units_z,  # distance of two rows in units of VECTOR entries
    row_units_out,
    row_units_ref,
    vocab_start,  # id of column 0
    inv_temperature,
    scale,  # log2(e) / temperature
    num_blocks,
    BLOCK: tl.constexpr,
    VECTOR: tl.constexpr,  # entries in 16 bytes, or 1 where rows do not begin at such multiples
    HAS_LOG_PROB: tl.constexpr,
    HAS_ENTROPY: tl.constexpr,
    HAS_KL: tl.constexpr,
):
    """dz = 1/temperature (g_lp (1_y - p) - g_H p (log p + H) + g_KL p (d - KL)).

    Bytes moved: z read, dz written, the reference read.
    """
    row = (tl.program_id(0) // num_blocks).to(tl.int64)
    start = (tl.program_id(0) % num_blocks) * BLOCK
    stats_ptr += row
    stride = num_rows.to(tl.int64)
    m = tl.load(stats_ptr + 2 * stride)
    log_total = tl.load(stats_ptr + 3 * stride) * LOG2E
    at_zero = 0.0
    slope = 0.0
    pull = 0.0
    g_kl = 0.0
    rho = 0.0
    if HAS_LOG_PROB:
        pull = tl.load(grad_log_prob_ptr + row) * inv_temperature
        at_zero += pull
    if HAS_ENTROPY:
        g_entropy = tl.load(grad_entropy_ptr + row) * inv_temperature
        at_zero += g_entropy * tl.load(stats_ptr + stride)
        slope += g_entropy * LN2
    if HAS_KL:
        g_kl = tl.load(grad_kl_ptr + row) * inv_temperature
        at_zero += g_kl * tl.load(kl_stats_ptr + row)
        rho = tl.load(kl_stats_ptr + stride + row)
    column_B = start + tl.arange(0, BLOCK)
    y = tl.load(target_ptr + row) - vocab_start
    z_ptr += row * row_units_z * VECTOR
    out_ptr += row * row_units_out * VECTOR
    ref_ptr += row * row_units_ref * VECTOR
    # Only blocks inside the row are free of a mask, and only without one are loads 16 bytes wide.
    if start + BLOCK <= num_columns:
        z_B = tl.load(z_ptr + column_B, eviction_policy="evict_first").to(tl.float32)
        ref_B = z_B
        if HAS_KL:
            ref_B = tl.load(ref_ptr + column_B, eviction_policy="evict_first").to(tl.float32)
        dz_B = _gradient(z_B, ref_B, m, log_total, at_zero, slope, scale, inv_temperature, g_kl, rho, HAS_KL)
        if HAS_LOG_PROB:  # noqa: SIM102  known when compiled, unlike the next
            if (y >= start) & (y < start + BLOCK):
                dz_B += tl.where(column_B == y, pull, 0.0)
        tl.store(out_ptr + column_B, dz_B.to(out_ptr.dtype.element_ty))
    else:
        is_column_B = column_B < num_columns
        z_B = tl.load(z_ptr + column_B, mask=is_column_B, other=-float("inf")).to(tl.float32)
        ref_B = z_B
        if HAS_KL:
            ref_B = tl.load(ref_ptr + column_B, mask=is_column_B, other=-float("inf")).to(tl.float32)
        dz_B = _gradient(z_B, ref_B, m, log_total, at_zero, slope, scale, inv_temperature, g_kl, rho, HAS_KL)
        if HAS_LOG_PROB:
            dz_B += tl.where(column_B == y, pull, 0.0)
        tl.store(out_ptr + column_B, dz_B.to(out_ptr.dtype.element_ty), mask=is_column_B)


# ---------------------------------------------------------------- launcher


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
    reference: Reference | None = None,
    launch: BackwardLaunch | None = None,
) -> None:
    """The gradient of this shard's logits into ``out`` [N, V] of their type, which may be ``logits_NV``."""
    num_rows, num_columns = logits_NV.shape
    if num_rows == 0 or num_columns == 0:
        return
    z_NV = adjacent(logits_NV)
    dz_NV = out if num_columns == 1 or out.stride(1) == 1 else torch.empty_like(z_NV)
    ref_NV = z_NV if reference is None else adjacent(reference.logits_NV)
    block, num_warps = launch or backward_launch(num_columns)
    vector = VECTOR_BYTES // z_NV.itemsize if all(map(is_aligned, (z_NV, dz_NV, ref_NV))) else 1
    num_blocks = -(-num_columns // block)
    with torch.cuda.device_of(z_NV):
        program: Any = logits_stats_bwd_kernel[(num_rows * num_blocks,)]
        program(
            z_NV,
            dz_NV,
            ref_NV,
            target_N.contiguous(),
            stats.contiguous(),
            None if reference is None else reference.kl_stats.contiguous(),
            _numbers(grad_log_prob_N),
            _numbers(grad_entropy_N),
            None if reference is None else _numbers(reference.grad_N),
            num_rows,
            num_columns,
            z_NV.stride(0) // vector,
            dz_NV.stride(0) // vector,
            ref_NV.stride(0) // vector,
            vocab_start,
            inv_temperature,
            inv_temperature * math.log2(math.e),
            num_blocks,
            BLOCK=block,
            VECTOR=vector,
            HAS_LOG_PROB=grad_log_prob_N is not None,
            HAS_ENTROPY=grad_entropy_N is not None,
            HAS_KL=reference is not None,
            num_warps=num_warps,
        )
    if dz_NV is not out:
        out.copy_(dz_NV)


def _numbers(value_N: Tensor | None) -> Tensor | None:
    return None if value_N is None else value_N.float().contiguous()
