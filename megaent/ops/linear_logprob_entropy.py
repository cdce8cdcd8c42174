"""The same statistics from hidden states and this rank's rows of the output weight.

Rows are worked off in chunks, so that of the ``[N, V]`` logits only one chunk exists at a time;
``mode="recompute"`` forms them again in the backward pass, ``mode="store"`` keeps them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup

from megaent.ops.backend import Backend, get_backend
from megaent.ops.logprob_entropy import (
    TokenStatistics,
    check_arguments,
    check_target,
    gather_partials,
    ignored,
    select_extras,
    silence,
    split_stats,
)
from megaent.ops.reference import statistics_dtype

DEFAULT_WORKSPACE_BYTES = 256 * 2**20


def linear_logprob_entropy(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    temperature: float = 1.0,
    vocab_start: int = 0,
    vocab_size: int | None = None,
    ignore_index: int | None = None,
    group: ProcessGroup | None = None,
    extras: tuple[str, ...] = (),
    backend: str | None = None,
    mode: str = "recompute",
    workspace_bytes: int | None = None,
) -> TokenStatistics:
    """``logprob_entropy(hidden @ weight.T, target, …)`` without ``[N, V]`` in memory.

    ``hidden`` [N, D], ``weight`` [V, D] this rank's rows, ``target`` [N] int64. The gradient of
    ``hidden`` is this rank's part: under tensor parallelism the caller sums it over ``group``
    (or reduce-scatters it under sequence parallelism). ``workspace_bytes`` bounds the logits of
    one chunk; results are repeatable for a fixed value of it.

    Raises ValueError as ``logprob_entropy`` does, and for an unknown ``mode``.
    """
    check_arguments(hidden, target, temperature=temperature, extras=extras)
    if weight.dim() != 2 or weight.shape[1] != hidden.shape[1]:
        raise ValueError(
            f"weight must have shape [V, D] with D = {hidden.shape[1]} as in hidden, got {list(weight.shape)}"
        )
    if mode not in ("recompute", "store"):
        raise ValueError(f"mode must be recompute or store, got {mode!r}")
    num_rows = weight.shape[0]
    limit = num_rows if vocab_size is None else max(0, min(num_rows, vocab_size - vocab_start))
    whole = vocab_size if vocab_size is not None else (num_rows if group is None else 2**62)
    check_target(target, whole, ignore_index)
    ignored_N = ignored(target, ignore_index)
    if ignored_N is not None:
        # What an ignored row holds may be NaN, and 0 * NaN would reach the weight's gradient.
        hidden = hidden.masked_fill(ignored_N[:, None], 0.0)
    options = _Options(
        get_backend(backend, hidden.device.type, hidden.dtype),
        1.0 / temperature,
        vocab_start,
        limit,
        ignore_index,
        group,
        bool(extras),
        mode == "store",
        rows_per_chunk(weight, workspace_bytes),
    )
    return select_extras(_LinearLogprobEntropy.apply(hidden, weight, target, options), extras)


def rows_per_chunk(weight_VD: Tensor, workspace_bytes: int | None) -> int:
    """How many tokens' logits, in the statistics' type, fit the workspace; at least one."""
    row_bytes = weight_VD.shape[0] * statistics_dtype(weight_VD.dtype).itemsize
    return max(1, (workspace_bytes or DEFAULT_WORKSPACE_BYTES) // max(1, row_bytes))


class _Options(NamedTuple):
    backend: Backend
    inv_temperature: float
    vocab_start: int
    row_limit: int  # rows of this shard that are not padding
    ignore_index: int | None
    group: ProcessGroup | None
    moments: bool
    is_stored: bool
    chunk: int


class _LinearLogprobEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, options: _Options):
        rows_VD = weight_VD[: options.row_limit]
        partials, kept = [], []
        for part in _chunks(hidden_ND.shape[0], options.chunk):
            logits_NV = hidden_ND[part] @ rows_VD.T
            partials.append(
                options.backend.logits_stats(
                    logits_NV,
                    target_N[part],
                    vocab_start=options.vocab_start,
                    inv_temperature=options.inv_temperature,
                    moments=options.moments,
                )
            )
            if options.is_stored:
                kept.append(logits_NV)
        stats = options.backend.stats_combine(
            gather_partials(torch.cat(partials, dim=1), options.group),
            inv_temperature=options.inv_temperature,
        )
        ctx.save_for_backward(hidden_ND, weight_VD, target_N, stats, *kept)
        ctx.options = options
        return split_stats(ctx, stats, ignored(target_N, options.ignore_index))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_log_prob_N, grad_entropy_N, *_):
        hidden_ND, weight_VD, target_N, stats, *kept = ctx.saved_tensors
        options: _Options = ctx.options
        rows_VD = weight_VD[: options.row_limit]
        ignored_N = ignored(target_N, options.ignore_index)
        grad_log_prob_N = silence(grad_log_prob_N, ignored_N)
        grad_entropy_N = silence(grad_entropy_N, ignored_N)
        grad_hidden_ND = torch.empty_like(hidden_ND)
        # bf16 sums over thousands of chunks would lose the small ones.
        grad_weight_VD = torch.zeros(weight_VD.shape, dtype=stats.dtype, device=weight_VD.device)
        for number, part in enumerate(_chunks(hidden_ND.shape[0], options.chunk)):
            logits_NV = kept[number] if kept else hidden_ND[part] @ rows_VD.T
            grad_NV = options.backend.logits_stats_backward(
                logits_NV,
                target_N[part],
                stats[:, part],
                grad_log_prob_N=None if grad_log_prob_N is None else grad_log_prob_N[part],
                grad_entropy_N=None if grad_entropy_N is None else grad_entropy_N[part],
                vocab_start=options.vocab_start,
                inv_temperature=options.inv_temperature,
                # Logits made for this chunk alone are free to be written over; kept ones may be needed again.
                out=None if kept else logits_NV,
            )
            grad_hidden_ND[part] = grad_NV @ rows_VD
            grad_weight_VD[: options.row_limit] += grad_NV.T @ hidden_ND[part]
        return grad_hidden_ND, grad_weight_VD.to(weight_VD.dtype), None, None


def _chunks(num_rows: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, num_rows)) for start in range(0, max(num_rows, 1), size)]
