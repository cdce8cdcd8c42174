"""The row operations as Triton kernels, on a GPU: bf16, fp16 and fp32, one read of the logits each.

What each returns is said in ``megaent.ops.reference``; the kernels are in ``megaent_kernels``. They are
registered as ``torch.ops.megaent_triton.*``, so that ``torch.compile`` keeps them in one graph. With
``TRITON_INTERPRET=1`` in the environment when this module is first imported they run on the CPU instead,
step by step and slowly, which is for tests alone.

Where it differs from the reference: exponentials below 2^-126 may count as 0, and spans and shards are
summed in fp64. The largest logits and the ranks, which are there to be looked at and not to train on, have no
kernels: they are the reference's own torch code, an extra read of the logits each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from megaent.errors import MissingDependency
from megaent.ops.divergence import KL_ROWS, Divergence, Mass, Pair
from megaent.ops.reference import count_above, top_logits
from megaent.ops.rows import fake_logits_stats, fake_stats_combine

try:
    from megaent_kernels import divergence as divergence_kernels
    from megaent_kernels import logits_gradient as gradient_kernels
    from megaent_kernels import logits_stats as row_kernels
    from megaent_kernels import stats_combine as combine_kernels
    from megaent_kernels.divergence import SMALL_RHO
    from triton import knobs
except ImportError as error:
    raise MissingDependency(
        f"backend triton needs Triton ({error}): pip install 'megaent[gpu]', or name another backend"
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

IS_INTERPRETED = bool(knobs.runtime.interpret)
"""Whether the kernels were made for the interpreter; decided when they are defined."""

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def logits_stats(
    logits_NV: Tensor, target_N: Tensor, *, vocab_start: int, inv_temperature: float, moments: bool = False
) -> Tensor:
    """Partial statistics of this shard's columns, [5 or 7, N] fp32."""
    return _logits_stats(logits_NV, target_N, vocab_start, inv_temperature, moments)


def stats_combine(partials: Sequence[Tensor], *, inv_temperature: float) -> Tensor:
    """Statistics of whole rows from the shards' partials, in the order given, [4 or 6, N] fp32."""
    return _stats_combine(list(partials), inv_temperature)


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
    result_NV = torch.empty_like(logits_NV) if out is None else out
    if grad_log_prob_N is None and grad_entropy_N is None and divergence is None:
        return result_NV.zero_()
    reference_NV, kl_stats, grad_kl_N = (None, None, None) if divergence is None else divergence
    _logits_stats_backward(
        logits_NV,
        target_N,
        stats,
        grad_log_prob_N,
        grad_entropy_N,
        reference_NV,
        kl_stats,
        grad_kl_N,
        vocab_start,
        inv_temperature,
        result_NV,
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
    return _kl_partial(logits_NV, reference_NV, partial, reference_partial, inv_temperature)


def mass_by_digit(
    logits_NV: Tensor, max_N: Tensor, prefix_N: Tensor, *, shift: int, inv_temperature: float
) -> Tensor:
    """Raises ValueError: this backend has none."""
    raise ValueError("backend triton has no nucleus entropy (nucleus_p); name the backend reference")


def _check(tensor: Tensor, name: str, dtypes: tuple[torch.dtype, ...]) -> None:
    if tensor.dtype not in dtypes:
        raise ValueError(
            f"backend triton takes {name} of {', '.join(map(str, dtypes))}, got {tensor.dtype}; "
            "name the backend reference for others"
        )
    if tensor.device.type == "cpu" and not IS_INTERPRETED:
        raise ValueError(
            f"backend triton runs on a GPU, got {name} on {tensor.device}; move them there, name the backend "
            "cpu or reference, or (to test) set TRITON_INTERPRET=1 before Python starts"
        )


def _check_alike(tensor: Tensor, name: str, logits: Tensor) -> None:
    if (tensor.shape, tensor.dtype, tensor.device) != (logits.shape, logits.dtype, logits.device):
        raise ValueError(
            f"{name} must be like logits, {list(logits.shape)} {logits.dtype} on {logits.device}, "
            f"got {list(tensor.shape)} {tensor.dtype} on {tensor.device}"
        )


# ---------------------------------------------------------------- registered ops


@torch.library.custom_op("megaent_triton::logits_stats", mutates_args=())
def _logits_stats(
    logits: Tensor, target: Tensor, vocab_start: int, inv_temperature: float, moments: bool
) -> Tensor:
    _check(logits, "logits", DTYPES)
    return row_kernels.logits_stats(
        logits, target, vocab_start=vocab_start, inv_temperature=inv_temperature, moments=moments
    )


_logits_stats.register_fake(fake_logits_stats)


@torch.library.custom_op("megaent_triton::stats_combine", mutates_args=())
def _stats_combine(partials: list[Tensor], inv_temperature: float) -> Tensor:
    for partial in partials:
        _check(partial, "partials", (torch.float32,))
    return combine_kernels.stats_combine(partials, inv_temperature=inv_temperature)


_stats_combine.register_fake(fake_stats_combine)


@torch.library.custom_op("megaent_triton::logits_stats_backward", mutates_args={"out"})
def _logits_stats_backward(
    logits: Tensor,
    target: Tensor,
    stats: Tensor,
    grad_log_prob: Tensor | None,
    grad_entropy: Tensor | None,
    reference: Tensor | None,
    kl_stats: Tensor | None,
    grad_kl: Tensor | None,
    vocab_start: int,
    inv_temperature: float,
    out: Tensor,
) -> None:
    _check(logits, "logits", DTYPES)
    _check_alike(out, "out", logits)
    against = None
    if reference is not None and kl_stats is not None and grad_kl is not None:
        _check_alike(reference, "reference", logits)
        against = gradient_kernels.Reference(reference, kl_stats, grad_kl)
    gradient_kernels.logits_stats_backward(
        logits,
        target,
        stats,
        out,
        grad_log_prob_N=grad_log_prob,
        grad_entropy_N=grad_entropy,
        vocab_start=vocab_start,
        inv_temperature=inv_temperature,
        reference=against,
    )


@_logits_stats_backward.register_fake
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
    out,
):
    return None


@torch.library.custom_op("megaent_triton::kl_partial", mutates_args=())
def _kl_partial(
    logits: Tensor, reference: Tensor, partial: Tensor, reference_partial: Tensor, inv_temperature: float
) -> Tensor:
    _check(logits, "logits", DTYPES)
    _check_alike(reference, "reference", logits)
    # What rounding the log totals costs shows in the sums, which are corrected for it.
    pair = Pair.of(Mass.of(partial).rounded(), Mass.of(reference_partial).rounded(), inv_temperature)
    (_, m, log_total), (_, m_ref, log_total_ref) = pair.policy, pair.reference
    rho_N = torch.where(pair.rho.abs() < SMALL_RHO, pair.rho.float().double(), pair.rho)
    norms = torch.stack([m, log_total, m_ref, log_total_ref, rho_N]).float()
    kl_N, excess_N = divergence_kernels.divergence_sums(
        logits, reference, norms, inv_temperature=inv_temperature
    ).unbind()
    return pair._replace(rho=rho_N).finish(kl_N, excess_N, torch.float32)


@_kl_partial.register_fake
def _(logits, reference, partial, reference_partial, inv_temperature):
    return partial.new_empty(KL_ROWS, logits.shape[0])
