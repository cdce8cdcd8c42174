"""The sums behind KL(policy || reference) of every row, from one read of both policies' logits.

Per entry, with p and q normalised within the shard and d = log p - log q in nats, a row sums ``p d - p + q``
and ``q - p``. Where |d| < 1/2 both come from the series of ``d + exp(-d) - 1``, since q - p would cancel.

A program owns a span of one row, its lanes keep sums of their own and meet once, and spans are added in their
order in fp64. All depends on the width of the row alone: a row gives the same bits in any batch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from megaent_kernels.rows import LN2, LOG2E, NO_SPECIAL_NUMBERS, VECTOR_BYTES, adjacent, exp2_or_0, is_aligned
from megaent_kernels.tune import ForwardLaunch, forward_launch

SMALL_RHO = 1.0
"""Nats. Near policies stay below it, and there the difference of two logits is exact."""

_SMALL_RHO = tl.constexpr(SMALL_RHO)


@triton.jit
def _bend(d):
    """d + exp(-d) - 1 for |d| <= 1/2: its series, relative error 5e-8."""
    h = d * (1.0 / 40320) - 1.0 / 5040
    h = h * d + 1.0 / 720
    h = h * d - 1.0 / 120
    h = h * d + 1.0 / 24
    h = h * d - 1.0 / 6
    h = h * d + 0.5
    return d * d * h


@triton.jit
def _terms(z, z_ref, m, log_total, m_ref, log_total_ref, rho, inv_temperature, scale):
    """(p d - p + q, q - p) of every entry; the log totals are in bits.

    Where rho is not small the difference of log p and log q loses less than that of the logits. Either is NaN
    where both logits are -inf, and then p is 0.
    """
    log_p = (z - m) * scale - log_total
    log_q = (z_ref - m_ref) * scale - log_total_ref
    p = exp2_or_0(log_p)
    q = exp2_or_0(log_q)
    d = tl.where(tl.abs(rho) < _SMALL_RHO, (z - z_ref) * inv_temperature + rho, (log_p - log_q) * LN2)
    bend = _bend(d)
    is_near = tl.abs(d) < 0.5
    above = tl.where(is_near, p * (bend - d), q - p)
    return tl.where(is_near, p * bend, tl.where(p == 0, 0.0, p * d) + above), above


@triton.jit(do_not_specialize=NO_SPECIAL_NUMBERS)
def divergence_fwd_kernel(
    z_ptr,  # [N, V]
    ref_ptr,  # [N, V] in the type of z
    norms_ptr,  # [5, N] fp32: m, log(c + s) of the policy; of the reference; rho
    out_ptr,  # [num_spans, 2, N] fp32
    num_rows,  # N
    num_columns,  # V
    row_units_z,  # distance of two rows in units of UNIT entries
    row_units_ref,
    inv_temperature,
    scale,  # log2(e) / temperature
    num_spans,
    span_vectors,  # columns of one program in units of VECTOR, a multiple of LANES
    LANES: tl.constexpr,
    VECTOR: tl.constexpr,  # entries in 16 bytes
    UNIT: tl.constexpr,  # VECTOR, or 1 where rows do not begin at such multiples
):
    """One span of one row. Bytes moved: those of the span, twice."""
    row = (tl.program_id(0) // num_spans).to(tl.int64)
    part = tl.program_id(0) % num_spans
    stride = num_rows.to(tl.int64)
    norms_ptr += row
    m = tl.load(norms_ptr)
    log_total = tl.load(norms_ptr + stride) * LOG2E
    m_ref = tl.load(norms_ptr + 2 * stride)
    log_total_ref = tl.load(norms_ptr + 3 * stride) * LOG2E
    rho = tl.load(norms_ptr + 4 * stride)
    z_ptr += row * row_units_z * UNIT
    ref_ptr += row * row_units_ref * UNIT
    start = part * span_vectors * VECTOR
    stop = tl.minimum(start + span_vectors * VECTOR, num_columns)
    tile_RK = tl.arange(0, LANES)[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]
    kl_R = tl.zeros((LANES,), tl.float32)
    excess_R = tl.zeros((LANES,), tl.float32)
    num_tiles = (stop - start) // (LANES * VECTOR)
    for tile in range(num_tiles):
        column_RK = start + tile * (LANES * VECTOR) + tile_RK
        z_RK = tl.load(z_ptr + column_RK, eviction_policy="evict_first").to(tl.float32)
        ref_RK = tl.load(ref_ptr + column_RK, eviction_policy="evict_first").to(tl.float32)
        kl_RK, above_RK = _terms(
            z_RK, ref_RK, m, log_total, m_ref, log_total_ref, rho, inv_temperature, scale
        )
        kl_R += tl.sum(kl_RK, 1)
        excess_R += tl.sum(above_RK, 1)
    ragged = start + num_tiles * (LANES * VECTOR)
    if ragged < stop:
        column_RK = ragged + tile_RK
        is_column_RK = column_RK < stop
        z_RK = tl.load(z_ptr + column_RK, mask=is_column_RK, other=-float("inf")).to(tl.float32)
        ref_RK = tl.load(ref_ptr + column_RK, mask=is_column_RK, other=-float("inf")).to(tl.float32)
        kl_RK, above_RK = _terms(
            z_RK, ref_RK, m, log_total, m_ref, log_total_ref, rho, inv_temperature, scale
        )
        kl_R += tl.sum(kl_RK, 1)
        excess_R += tl.sum(above_RK, 1)
    out_ptr += part.to(tl.int64) * 2 * stride + row
    tl.store(out_ptr, tl.sum(kl_R, 0))
    tl.store(out_ptr + stride, tl.sum(excess_R, 0))


def divergence_sums(
    logits_NV: Tensor,
    reference_NV: Tensor,
    norms: Tensor,
    *,
    inv_temperature: float,
    launch: ForwardLaunch | None = None,
) -> Tensor:
    """[2, N] fp64 sums of ``p d - p + q`` and of ``q - p``; ``norms`` [5, N] fp32 as the kernel reads them.

    ``launch`` replaces the table's choice.
    """
    num_rows, num_columns = logits_NV.shape
    if num_rows == 0 or num_columns == 0:
        return norms.new_zeros(2, num_rows, dtype=torch.float64)
    z_NV, ref_NV = adjacent(logits_NV), adjacent(reference_NV)
    lanes, span, num_warps = launch or forward_launch(num_columns)
    vector, num_spans = VECTOR_BYTES // z_NV.itemsize, -(-num_columns // span)
    unit = vector if is_aligned(z_NV) and is_aligned(ref_NV) else 1
    part_SKN = torch.empty(num_spans, 2, num_rows, dtype=torch.float32, device=z_NV.device)
    with torch.cuda.device_of(z_NV):
        program: Any = divergence_fwd_kernel[(num_rows * num_spans,)]
        program(
            z_NV,
            ref_NV,
            norms.contiguous(),
            part_SKN,
            num_rows,
            num_columns,
            z_NV.stride(0) // unit,
            ref_NV.stride(0) // unit,
            inv_temperature,
            inv_temperature * math.log2(math.e),
            num_spans,
            span // vector,
            LANES=lanes,
            VECTOR=vector,
            UNIT=unit,
            num_warps=num_warps,
        )
    sums = torch.zeros(2, num_rows, dtype=torch.float64, device=z_NV.device)
    for part in part_SKN:  # one by one: the order of torch's own sum may depend on N
        sums += part
    return sums
