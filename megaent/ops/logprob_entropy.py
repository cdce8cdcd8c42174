"""Log-probability and entropy of every token from its logits, with both gradients.

The logits may be one rank's columns of a vocabulary split over a tensor-parallel group: one
all-gather of five numbers a token and rank makes them whole, and no collective is needed backward.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup

from megaent.ops.backend import Backend, get_backend

EXTRAS = ("sum_p2", "varentropy")


class TokenStatistics(NamedTuple):
    """Per token, fp32 (fp64 for fp64 input); the optional ones carry no gradient."""

    log_prob: Tensor  # [N] nats, of the target, temperature applied
    entropy: Tensor  # [N] nats, of the whole vocabulary, temperature applied
    sum_p2: Tensor | None = None  # [N] collision probability
    varentropy: Tensor | None = None  # [N] nats^2, variance of log p


def logprob_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    temperature: float = 1.0,
    vocab_start: int = 0,
    vocab_size: int | None = None,
    ignore_index: int | None = None,
    group: ProcessGroup | None = None,
    extras: tuple[str, ...] = (),
    backend: str | None = None,
    overwrite_logits: bool = False,
) -> TokenStatistics:
    """``log p(target)`` and the entropy of ``softmax(logits / temperature)``, differentiable.

    ``logits`` [N, V] float, this rank's columns of the vocabulary, the first being column
    ``vocab_start``; ``target`` [N] int64, ids in the whole vocabulary. Columns whose id is
    ``vocab_size`` or more are padding and are excluded. Where ``target == ignore_index`` both
    results are 0 and no gradient flows. ``group`` holds the other shards. ``backend`` as in
    ``megaent.ops.backend``. With ``overwrite_logits`` the backward pass writes the gradient over the logits,
    which saves a tensor of their size and the time to touch it; whatever else needs the logits afterwards, a
    second backward pass included, is refused by autograd.

    Raises ValueError when shapes, temperature, extras or (on a CPU) targets are out of range.
    """
    check_arguments(logits, target, temperature=temperature, extras=extras)
    limit = _column_limit(logits.shape[1], vocab_start, vocab_size)
    check_target(target, vocab_size if vocab_size is not None else _whole_vocab(logits, group), ignore_index)
    results = _LogprobEntropy.apply(
        logits,
        target,
        _Options(
            get_backend(backend, logits.device.type, logits.dtype),
            1.0 / temperature,
            vocab_start,
            limit,
            ignore_index,
            group,
            bool(extras),
            overwrite_logits,
        ),
    )
    return select_extras(results, extras)


class _Options(NamedTuple):
    backend: Backend
    inv_temperature: float
    vocab_start: int
    column_limit: int  # columns of this shard that are not padding
    ignore_index: int | None
    group: ProcessGroup | None
    moments: bool
    is_in_place: bool


class _LogprobEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits_NV: Tensor, target_N: Tensor, options: _Options):
        partial = options.backend.logits_stats(
            logits_NV[:, : options.column_limit],
            target_N,
            vocab_start=options.vocab_start,
            inv_temperature=options.inv_temperature,
            moments=options.moments,
        )
        stats = options.backend.stats_combine(
            gather_partials(partial, options.group), inv_temperature=options.inv_temperature
        )
        ctx.save_for_backward(logits_NV, target_N, stats)
        ctx.options = options
        return split_stats(ctx, stats, ignored(target_N, options.ignore_index))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_log_prob_N, grad_entropy_N, *_):
        logits_NV, target_N, stats = ctx.saved_tensors
        options: _Options = ctx.options
        ignored_N = ignored(target_N, options.ignore_index)
        whole_NV = logits_NV if options.is_in_place else None
        grad_NV = options.backend.logits_stats_backward(
            logits_NV[:, : options.column_limit],
            target_N,
            stats,
            grad_log_prob_N=silence(grad_log_prob_N, ignored_N),
            grad_entropy_N=silence(grad_entropy_N, ignored_N),
            vocab_start=options.vocab_start,
            inv_temperature=options.inv_temperature,
            out=None if whole_NV is None else whole_NV[:, : options.column_limit],
        )
        if ignored_N is not None:
            # What an ignored row holds may be NaN, and 0 * NaN would reach the gradient.
            grad_NV.masked_fill_(ignored_N[:, None], 0.0)
        return _with_padding(grad_NV, logits_NV, whole_NV), None, None


def _with_padding(grad_NV: Tensor, logits_NV: Tensor, whole_NV: Tensor | None) -> Tensor:
    """The gradient with zeros in the padded columns; ``whole_NV`` are the logits it was written over."""
    if whole_NV is not None:
        whole_NV[:, grad_NV.shape[1] :] = 0.0
        # An op may write without autograd's knowledge; this makes it refuse the logits from here on.
        torch.autograd.graph.increment_version(whole_NV)
        return whole_NV.detach()
    padding = logits_NV.shape[1] - grad_NV.shape[1]
    return torch.nn.functional.pad(grad_NV, (0, padding)) if padding else grad_NV


# ---------------------------------------------------------------- shared with linear_logprob_entropy


def check_arguments(rows: Tensor, target: Tensor, *, temperature: float, extras: tuple[str, ...]) -> None:
    if rows.dim() != 2 or target.shape != rows.shape[:1]:
        raise ValueError(
            f"target must have shape [N] to match the first dimension of [N, …] = {list(rows.shape)}, "
            f"got {list(target.shape)}"
        )
    if target.dtype != torch.int64:
        raise ValueError(f"target must be int64, got {target.dtype}")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    unknown = [name for name in extras if name not in EXTRAS]
    if unknown:
        raise ValueError(f"extras must be among {EXTRAS}, got {unknown}")


def check_target(target_N: Tensor, vocab_size: int, ignore_index: int | None) -> None:
    """Only on a CPU and not inside ``torch.compile``: elsewhere the check would wait for the device."""
    if target_N.device.type != "cpu" or torch.compiler.is_compiling() or target_N.numel() == 0:
        return
    bad_N = (target_N < 0) | (target_N >= vocab_size)
    if ignore_index is not None:
        bad_N &= target_N != ignore_index
    if bool(bad_N.any()):
        first = int(bad_N.nonzero()[0])
        raise ValueError(
            f"targets must lie in [0, {vocab_size}), got {int(target_N[first])} at position {first}"
        )


def _whole_vocab(logits_NV: Tensor, group: ProcessGroup | None) -> int:
    """Without ``vocab_size`` the shards may be uneven, so only one shard's width is a sure bound."""
    return logits_NV.shape[1] if group is None else torch.iinfo(torch.int64).max


def _column_limit(num_columns: int, vocab_start: int, vocab_size: int | None) -> int:
    return num_columns if vocab_size is None else max(0, min(num_columns, vocab_size - vocab_start))


def gather_partials(partial: Tensor, group: ProcessGroup | None) -> list[Tensor]:
    """Every shard's partial statistics in rank order: the one collective of these ops."""
    if group is None or group.size() == 1:
        return [partial]
    gathered = [torch.empty_like(partial) for _ in range(group.size())]
    dist.all_gather(gathered, partial.contiguous(), group=group)
    return gathered


def ignored(target_N: Tensor, ignore_index: int | None) -> Tensor | None:
    return None if ignore_index is None else target_N == ignore_index


def silence(value_N: Tensor | None, ignored_N: Tensor | None) -> Tensor | None:
    """``value_N`` with 0 where the row is ignored."""
    return value_N if value_N is None or ignored_N is None else value_N.masked_fill(ignored_N, 0.0)


def split_stats(ctx, stats: Tensor, ignored_N: Tensor | None) -> tuple[Tensor, ...]:
    """log_prob, entropy and the moments as separate outputs; the moments without gradient."""
    ctx.set_materialize_grads(False)
    rows = [silence(row, ignored_N) for row in (stats[0], stats[1], *stats[4:])]
    # Outputs must own their memory: views of `stats` would alias what backward saves.
    outputs = tuple(row.clone() for row in rows if row is not None)
    ctx.mark_non_differentiable(*outputs[2:])
    return outputs


def select_extras(results: tuple[Tensor, ...], extras: tuple[str, ...]) -> TokenStatistics:
    chosen = {name: results[2 + EXTRAS.index(name)] for name in extras}
    return TokenStatistics(results[0], results[1], **chosen)
