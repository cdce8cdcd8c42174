"""KL(policy || reference) of every token over the whole vocabulary, from shards of it.

Per entry, with p and q normalised within this shard's columns and ``d = log p - log q``, KL is summed as ::

    sum of p (d + exp(-d) - 1)  =  sum of p d - p + q

whose terms are all non-negative, so a KL near 0 keeps its precision, and in which an error e of the
normalisers enters as e^2 / 2 only. rho, the log of the reference's mass ``sum of exp(z_ref / temperature)``
over the policy's, is corrected by the error that the sums themselves show: ``log1p of sum of q - p``.

A shard r contributes its own KL_r and rho_r, the latter as two fp32 numbers whose sum it is, since it may be
large where KL is not. They travel with the other partial statistics, so there is one all-gather. The chain
rule of the divergence makes them whole, P_r being the shard's share of the policy's probability::

    rho = log of sum of P_r exp(rho_r)          KL = sum of P_r (KL_r + rho - rho_r)

Where a shard has no probability under the policy, rho_r is the log of the reference's mass alone. KL is
+inf where the reference excludes a token that the policy does not, and its gradient is then NaN.

Source: Cover and Thomas, Elements of Information Theory, theorem 2.5.3 (chain rule); the summand is the
Bregman form of KL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

KL_ROWS = 3
"""Numbers a token and shard: KL_r, rho_r and what rounding took from rho_r."""

_BLOCK = 8192
"""Columns of which fp64 copies exist at a time."""


class Divergence(NamedTuple):
    """What the backward pass needs to know of KL."""

    reference_NV: Tensor  # the reference's logits of this shard, in the type of the policy's
    stats: Tensor  # [2, N] KL and rho of whole rows
    grad_N: Tensor

    def of(self, rows: slice, dtype: torch.dtype) -> Divergence:
        """Of some rows, their logits in another type."""
        return Divergence(self.reference_NV[rows].to(dtype), self.stats[:, rows], self.grad_N[rows])


class Mass(NamedTuple):
    """What normalises a shard's part of every row, [N] fp64; zeros where it is -inf throughout."""

    exists: Tensor  # bool
    max: Tensor
    log_total: Tensor  # log of sum of exp((z - max) / temperature)

    @classmethod
    def of(cls, partial: Tensor) -> Mass:
        max_N, count_N, below_N = partial[:3].double()
        exists_N = ~(max_N == -torch.inf)  # NaN exists too, and stays
        log_total_N = torch.log1p(below_N + (count_N - 1))
        return cls(exists_N, torch.where(exists_N, max_N, 0.0), torch.where(exists_N, log_total_N, 0.0))

    def rounded(self) -> Mass:
        """With a log total that fp32 holds, for kernels that compute in it."""
        return self._replace(log_total=self.log_total.float().double())

    def normalise(self, logits_NV: Tensor, inv_temperature: float) -> Tensor:
        return (logits_NV.double() - self.max[:, None]) * inv_temperature - self.log_total[:, None]


class Pair(NamedTuple):
    """A shard's part of every row under both policies."""

    policy: Mass
    reference: Mass
    rho: Tensor  # [N] fp64, as exact as the two log totals

    @classmethod
    def of(cls, policy: Mass, reference: Mass, inv_temperature: float) -> Pair:
        rho_N = (reference.max - policy.max) * inv_temperature + (reference.log_total - policy.log_total)
        return cls(policy, reference, rho_N)

    def finish(self, kl_N: Tensor, excess_N: Tensor, dtype: torch.dtype) -> Tensor:
        """What the shard contributes, [3, N], from its fp64 sums of ``p d - p + q`` and of ``q - p``."""
        is_shared_N = self.policy.exists & self.reference.exists
        correction_N = torch.where(is_shared_N, torch.log1p(excess_N), 0.0)
        kl_N = torch.where(is_shared_N, kl_N - (excess_N - correction_N), 0.0)
        rho_N = torch.where(self.reference.exists, self.rho + correction_N, -torch.inf)
        return kl_rows(kl_N, rho_N, dtype)


def kl_rows(kl_N: Tensor, rho_N: Tensor, dtype: torch.dtype) -> Tensor:
    """[3, N] KL_r, and rho_r as two numbers whose sum it is."""
    rounded_N = rho_N.to(dtype)
    rest_N = torch.where(rounded_N.isfinite(), rho_N - rounded_N, 0.0)
    return torch.stack([kl_N.to(dtype), rounded_N, rest_N.to(dtype)])


def kl_partial(
    logits_NV: Tensor,
    reference_NV: Tensor,
    partial: Tensor,
    reference_partial: Tensor,
    *,
    inv_temperature: float,
) -> Tensor:
    """KL_r and the parts of rho_r of this shard, [3, N], summed in fp64 over blocks of columns.

    ``partial`` and ``reference_partial`` are the two policies' partial statistics.
    """
    pair = Pair.of(Mass.of(partial), Mass.of(reference_partial), inv_temperature)
    kl_N, excess_N = torch.zeros_like(pair.rho), torch.zeros_like(pair.rho)
    for start in range(0, logits_NV.shape[1], _BLOCK):
        log_p_NV = pair.policy.normalise(logits_NV[:, start : start + _BLOCK], inv_temperature)
        log_q_NV = pair.reference.normalise(reference_NV[:, start : start + _BLOCK], inv_temperature)
        p_NV, d_NV = log_p_NV.exp(), log_p_NV - log_q_NV
        # q - p, without cancellation where they are near.
        above_NV = torch.where(d_NV.abs() < 0.5, p_NV * torch.expm1(-d_NV), log_q_NV.exp() - p_NV)
        kl_N += (torch.where(p_NV == 0, 0.0, p_NV * d_NV) + above_NV).sum(1)
        excess_N += above_NV.sum(1)
    return pair.finish(kl_N, excess_N, partial.dtype)


def kl_combine(
    partials: Sequence[Tensor], kl_partials: Sequence[Tensor], *, inv_temperature: float
) -> Tensor:
    """KL and rho of whole rows from the shards' numbers in the order given, [2, N]."""
    whole = _chain(partials, kl_partials, inv_temperature)
    return torch.stack(whole).to(partials[0].dtype)


def kl_merge(partials: Sequence[Tensor], kl_partials: Sequence[Tensor], *, inv_temperature: float) -> Tensor:
    """The shard's numbers from those of tiles of its columns in the order given, [3, N]."""
    return kl_rows(*_chain(partials, kl_partials, inv_temperature), partials[0].dtype)


def _chain(
    partials: Sequence[Tensor], kl_partials: Sequence[Tensor], inv_temperature: float
) -> tuple[Tensor, Tensor]:
    """KL and rho of all the columns together, [N] fp64; of no policy's mass, the log of the reference's."""
    masses = [Mass.of(partial) for partial in partials]
    exists_RN = torch.stack([mass.exists for mass in masses])
    max_RN = torch.stack([mass.max for mass in masses]).masked_fill(~exists_RN, -torch.inf)
    is_there_N = exists_RN.any(0)
    max_N = torch.where(is_there_N, max_RN.amax(0), 0.0)
    log_mass_RN = (max_RN - max_N) * inv_temperature + torch.stack([mass.log_total for mass in masses])
    log_total_N = torch.where(is_there_N, _log_sum_exp(log_mass_RN), 0.0)
    log_share_RN = log_mass_RN - log_total_N
    kl_RN, rounded_RN, rest_RN = torch.stack(list(kl_partials), dim=1).double()
    rho_RN = rounded_RN + rest_RN
    log_whole_N = max_N * inv_temperature + log_total_N
    rho_N = _log_sum_exp(torch.where(exists_RN, log_share_RN + rho_RN, rho_RN - log_whole_N))
    share_RN = log_share_RN.exp()
    parts_RN = torch.where(share_RN > 0, share_RN * (kl_RN + (rho_N - rho_RN)), 0.0 * share_RN)
    return in_order(parts_RN).clamp(min=0.0), rho_N


def in_order(value_RN: Tensor) -> Tensor:
    """[N] the sum over R, one after the other; the order of torch's own sum may depend on N."""
    total_N = value_RN[0]
    for value_N in value_RN[1:]:
        total_N = total_N + value_N
    return total_N


def _log_sum_exp(x_RN: Tensor) -> Tensor:
    top_N = x_RN.amax(0)
    shift_N = torch.where(top_N == -torch.inf, 0.0, top_N)
    return shift_N + in_order((x_RN - shift_N).exp()).log()


def kl_gradient(
    logits_NV: Tensor, log_p_NV: Tensor, divergence: Divergence, *, inv_temperature: float
) -> Tensor:
    """``g p (d - KL)`` of this shard in the type of ``log_p_NV``, which is normalised over whole rows.

    ``d = (z - z_ref) / temperature + rho`` takes the difference of the logits first: it is exact where the
    two models are near.
    """
    kl_N, rho_N = divergence.stats
    p_NV = log_p_NV.exp()
    reference_NV = divergence.reference_NV.to(log_p_NV.dtype)
    d_NV = (logits_NV.to(log_p_NV.dtype) - reference_NV) * inv_temperature + rho_N[:, None]
    # Where p is 0 d may be (-inf) - (-inf).
    weighted_NV = torch.where(p_NV == 0, 0.0, p_NV * (d_NV - kl_N[:, None]))
    return divergence.grad_N[:, None] * weighted_NV
