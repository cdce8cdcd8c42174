"""The row operations in plain torch: the contract of every other backend, and its truth in fp64.

With ``m = max z``, ``c`` the number of entries equal to m, ``x = (z - m) / temperature``,
``s = sum over z < m of exp(x)`` and ``t = sum of exp(x) * x``::

    log p_y = (z_y - m) / temperature - log(c + s)
    H       = log1p(s + (c - 1)) - t / (c + s)

Both terms of H are non-negative, so nothing cancels: entropies near 0 keep their relative
precision, where ``lse - sum p z`` on unshifted logits loses it. The parentheses of ``s + (c - 1)``
matter: ``s + c - 1`` from left to right rounds s away in fp32.

Statistics are fp32, or fp64 for fp64 input. A ``partial`` is [K, N] with rows m, c, s, t, z_y and,
with ``moments``, the sums of exp(2x) and exp(x) x^2. ``stats`` is [K', N] with rows log_prob,
entropy, m, log(c + s) and, with moments, sum p^2 and the variance of log p. What is measured against a
second model's logits is in ``megaent.ops.divergence``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from megaent.ops.divergence import Divergence, in_order, kl_gradient, kl_partial
from megaent.ops.rows import DIGIT, MASS_UNIT, NUM_DIGITS, Partial, Stat

__all__ = [
    "count_above",
    "kl_partial",
    "logits_stats",
    "logits_stats_backward",
    "mass_by_digit",
    "merge_partials",
    "statistics_dtype",
    "stats_combine",
    "top_logits",
    "top_mass",
]

NUM_TOP = 8
"""Tokens whose probability ``top8_mass`` adds up."""


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def adjacent(rows_NV: Tensor) -> Tensor:
    """With the entries of a row side by side, copied only where they are not: torch's sums depend on that."""
    return rows_NV if rows_NV.shape[1] <= 1 or rows_NV.stride(1) == 1 else rows_NV.contiguous()


def logits_stats(
    logits_NV: Tensor, target_N: Tensor, *, vocab_start: int, inv_temperature: float, moments: bool = False
) -> Tensor:
    """Partial statistics of this shard's columns ``vocab_start .. vocab_start + V``, [5 or 7, N]."""
    z_NV = adjacent(logits_NV.to(statistics_dtype(logits_NV.dtype)))
    num_rows, num_columns = z_NV.shape
    if num_columns == 0:
        return _empty_shard(z_NV, num_rows, moments)
    max_N = z_NV.amax(dim=1)
    # A shard whose part of a row is all -inf would give (-inf) - (-inf); it must contribute 0.
    shift_N1 = max_N.nan_to_num(neginf=0.0, posinf=torch.inf, nan=torch.nan)[:, None]
    x_NV = (z_NV - shift_N1) * inv_temperature
    exp_NV = x_NV.exp()
    weighted_NV = torch.where(exp_NV > 0, exp_NV * x_NV, 0.0)
    is_max_NV = (z_NV == max_N[:, None]) & (exp_NV > 0)
    count_N = is_max_NV.sum(dim=1, dtype=z_NV.dtype)
    below_N = exp_NV.masked_fill(is_max_NV, 0.0).sum(dim=1)
    rows = [max_N, count_N, below_N, weighted_NV.sum(dim=1), _target_logit(z_NV, target_N, vocab_start)]
    if moments:
        rows += [exp_NV.square().sum(dim=1), torch.where(exp_NV > 0, weighted_NV * x_NV, 0.0).sum(dim=1)]
    return torch.stack(rows)


def _empty_shard(like: Tensor, num_rows: int, moments: bool) -> Tensor:
    partial = like.new_zeros(Partial.number(moments), num_rows)
    partial[Partial.MAX] = -torch.inf
    return partial


def _target_logit(z_NV: Tensor, target_N: Tensor, vocab_start: int) -> Tensor:
    """The target's logit where this shard holds it, 0 elsewhere."""
    local_N = target_N - vocab_start
    is_here_N = (local_N >= 0) & (local_N < z_NV.shape[1])
    picked_N = z_NV.gather(1, local_N.clamp(0, z_NV.shape[1] - 1)[:, None])[:, 0]
    return torch.where(is_here_N, picked_N, 0.0)


def merge_partials(partials: Sequence[Tensor], *, inv_temperature: float) -> Tensor:
    """One partial of all the columns that several are of, summed in the order given, [5 or 7, N]."""
    max_N = torch.stack([partial[0] for partial in partials]).amax(dim=0)
    zeros_N = torch.zeros_like(max_N)
    count_N, below_N, weighted_N, logit_N = zeros_N, zeros_N, zeros_N, zeros_N
    square_N, second_N = zeros_N, zeros_N
    for partial in partials:
        m_N, c_N, s_N, t_N, y_N = partial[:5]
        has_mass_N = m_N > -torch.inf
        shift_N = torch.where(has_mass_N, (m_N - max_N) * inv_temperature, 0.0)
        scale_N = torch.where(has_mass_N, shift_N.exp(), 0.0)
        is_top_N = has_mass_N & (m_N == max_N)
        count_N = count_N + torch.where(is_top_N, c_N, 0.0)
        below_N = below_N + torch.where(is_top_N, s_N, (c_N + s_N) * scale_N)
        weighted_N = weighted_N + scale_N * (t_N + shift_N * (c_N + s_N))
        logit_N = logit_N + y_N
        if partial.shape[0] > 5:
            square_N = square_N + scale_N.square() * partial[5]
            second_N = second_N + scale_N * (partial[6] + 2 * shift_N * t_N + shift_N.square() * (c_N + s_N))
    rows = [max_N, count_N, below_N, weighted_N, logit_N]
    return torch.stack([*rows, square_N, second_N] if partials[0].shape[0] > 5 else rows)


def stats_combine(partials: Sequence[Tensor], *, inv_temperature: float) -> Tensor:
    """Statistics of whole rows from the shards' partials, summed in the order given, [4 or 6, N]."""
    whole = merge_partials(partials, inv_temperature=inv_temperature)
    max_N, count_N, below_N, weighted_N, logit_N = whole[:5]
    total_N = count_N + below_N
    log_total_N = torch.log1p(below_N + (count_N - 1))
    mean_x_N = weighted_N / total_N
    log_prob_N = (logit_N - max_N) * inv_temperature - log_total_N
    rows = [log_prob_N, log_total_N - mean_x_N, max_N, log_total_N]
    if whole.shape[0] > 5:
        rows += [whole[5] / total_N.square(), whole[6] / total_N - mean_x_N.square()]
    return torch.stack(rows)


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
    """The gradient of this shard's logits, rounded once, to their type.

    ``1/temperature * (g_lp (1_y - p) - g_H p (log p + H) + g_KL p (log p - log q - KL))``, the last where a
    ``divergence`` is given. Written into ``out`` where it is given, which may be ``logits_NV`` itself.
    """
    _, entropy_N, max_N, log_total_N = stats[:4]
    z_NV = logits_NV.to(stats.dtype)
    log_p_NV = (z_NV - max_N[:, None]) * inv_temperature - log_total_N[:, None]
    p_NV = log_p_NV.exp()
    grad_NV = torch.zeros_like(z_NV)
    if grad_log_prob_N is not None:
        grad_NV -= grad_log_prob_N[:, None] * p_NV
        local_N = target_N - vocab_start
        row_K = ((local_N >= 0) & (local_N < z_NV.shape[1])).nonzero()[:, 0]
        grad_NV[row_K, local_N[row_K]] += grad_log_prob_N[row_K]
    if grad_entropy_N is not None:
        centred_NV = torch.where(p_NV > 0, p_NV * (log_p_NV + entropy_N[:, None]), 0.0)
        grad_NV -= grad_entropy_N[:, None] * centred_NV
    if divergence is not None:
        grad_NV += kl_gradient(z_NV, log_p_NV, divergence, inv_temperature=inv_temperature)
    scaled_NV = (grad_NV * inv_temperature).to(logits_NV.dtype)
    return scaled_NV if out is None else out.copy_(scaled_NV)


# ---------------------------------------------------------------- ranks and the most probable tokens


def top_logits(logits_NV: Tensor) -> Tensor:
    """The largest logits of every row, falling, [8, N] in their type; -inf where there are fewer columns."""
    num_found = min(NUM_TOP, logits_NV.shape[1])
    largest = logits_NV.topk(num_found, dim=1).values.T
    return torch.nn.functional.pad(largest, (0, 0, 0, NUM_TOP - num_found), value=-torch.inf)


def top_mass(tops: Sequence[Tensor], stats: Tensor, *, inv_temperature: float) -> Tensor:
    """[N] the probability of the 8 largest logits of whole rows, from those of the shards."""
    largest = torch.cat(list(tops)).topk(NUM_TOP, dim=0).values
    p = ((largest - stats[Stat.MAX]) * inv_temperature - stats[Stat.LOG_TOTAL]).exp()
    return in_order(p).clamp(max=1.0)  # rounding may pass 1


def count_above(logits_NV: Tensor, bound_N: Tensor) -> Tensor:
    """[N] int64 entries of every row that are strictly larger than its ``bound``."""
    return (logits_NV > bound_N[:, None]).sum(1)


# ---------------------------------------------------------------- the search for a nucleus


def mass_by_digit(
    logits_NV: Tensor, max_N: Tensor, prefix_N: Tensor, *, shift: int, inv_temperature: float
) -> Tensor:
    """[N, 256] int64: ``exp((z - max) / temperature)`` in units of 2^-40, summed by eight bits of the logit.

    A logit's bits, read as an unsigned integer of its own order (32, fp64: 64), are told apart at ``shift``;
    those above must equal ``prefix``. ``max`` is that of the whole rows. NaN has no mass.
    """
    z_NV = logits_NV.to(statistics_dtype(logits_NV.dtype))
    e_NV = ((z_NV - max_N[:, None]) * inv_temperature).exp().nan_to_num(nan=0.0)
    units_NV = (e_NV.double() / MASS_UNIT).round().long()
    key_NV, width = _ordered_bits(z_NV)
    above = (1 << (width - shift - DIGIT)) - 1
    is_open_NV = (key_NV >> min(shift + DIGIT, 63)) & above == (prefix_N & above)[:, None]
    mass_ND = torch.zeros(z_NV.shape[0], NUM_DIGITS, dtype=torch.int64, device=z_NV.device)
    digit_NV = (key_NV >> shift) & (NUM_DIGITS - 1)
    return mass_ND.scatter_add_(1, digit_NV, torch.where(is_open_NV, units_NV, 0))


def _ordered_bits(z_NV: Tensor) -> tuple[Tensor, int]:
    """Unsigned integers in the order of the floats, 0.0 and -0.0 equal, and how many bits they have."""
    if z_NV.dtype == torch.float64:
        bits_NV = (z_NV + 0.0).view(torch.int64)
        return torch.where(bits_NV < 0, ~bits_NV, bits_NV ^ torch.iinfo(torch.int64).min), 64
    bits_NV = (z_NV + 0.0).view(torch.int32).long()
    return torch.where(bits_NV < 0, -1 - bits_NV, bits_NV + 2**31), 32
