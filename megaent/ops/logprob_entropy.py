"""Log-probability and entropy of every token from its logits, with both gradients.

The logits may be one rank's columns of a vocabulary split over a tensor-parallel group: one
all-gather of five numbers a token and rank makes them whole, and no collective is needed backward.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup

from megaent.ops.nucleus import gradient_of_logits, nucleus_of
from megaent.ops.rows import Stat
from megaent.ops.token_statistics import (
    Shard,
    TokenStatistics,
    combine_shards,
    divergence_of,
    ignored,
    output_gradients,
    results,
    shard_of,
    shard_partial,
    sum_over_shards,
)


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
    reference_logits: Tensor | None = None,
    nucleus_p: float | None = None,
    backend: str | None = None,
    overwrite_logits: bool = False,
) -> TokenStatistics:
    """``log p(target)`` and the entropy of ``softmax(logits / temperature)``, differentiable.

    ``logits`` [N, V] float, this rank's columns of the vocabulary, the first being column
    ``vocab_start``; ``target`` [N] int64, ids in the whole vocabulary. Columns whose id is
    ``vocab_size`` or more are padding and are excluded. Where ``target == ignore_index`` every
    result is 0 and no gradient flows. ``group`` holds the other shards. ``extras`` names further fields of
    ``TokenStatistics``. ``backend`` as in ``megaent.ops.backend``.

    ``reference_logits`` [N, V], the same columns under another policy and in the same type, adds ``kl``:
    KL(policy || reference), both at this temperature, with a gradient to ``logits`` alone. It is +inf, with
    a gradient of NaN, where the reference excludes (-inf) a token that the policy does not.

    ``nucleus_p`` in (0, 1] adds ``nucleus_entropy``: that of the smallest set of most probable tokens whose
    probability reaches it, renormalised, at this temperature (megaent.ops.nucleus).

    With ``overwrite_logits`` the backward pass writes the gradient over the logits, which saves a tensor of
    their size and the time to touch it; whatever else needs the logits afterwards, a second backward pass
    included, is refused by autograd.

    Raises ValueError when shapes, types, temperature, extras or (on a CPU) targets are out of range.
    """
    shard = shard_of(
        logits,
        target,
        logits.shape[-1],
        temperature=temperature,
        vocab_start=vocab_start,
        vocab_size=vocab_size,
        ignore_index=ignore_index,
        group=group,
        extras=extras,
        has_reference=reference_logits is not None,
        nucleus_p=nucleus_p,
        backend=backend,
    )
    _check_reference(logits, reference_logits)
    found = _LogprobEntropy.apply(logits, reference_logits, target, _Options(shard, overwrite_logits))
    return TokenStatistics(**dict(zip(shard.names(), found, strict=True)))


class _Options(NamedTuple):
    shard: Shard
    is_in_place: bool


class _LogprobEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, logits_NV: Tensor, reference_NV: Tensor | None, target_N: Tensor, options: _Options
    ) -> tuple[Tensor, ...]:
        shard = options.shard
        true_NV = logits_NV[:, : shard.limit]
        reference_NV = None if reference_NV is None else reference_NV[:, : shard.limit]
        whole = combine_shards(shard_partial(true_NV, reference_NV, target_N, shard), shard)
        rank_N = None
        if "target_rank" in shard.extras:
            rank_N = shard.backend.count_above(true_NV, whole.target_logit_N)
            rank_N = sum_over_shards(rank_N, shard.group)
        nucleus = (None, None)
        if shard.nucleus_p is not None:
            nucleus = nucleus_of(lambda: (true_NV,), target_N, whole.stats[Stat.MAX], shard)
        ctx.save_for_backward(logits_NV, reference_NV, target_N, whole.stats, whole.kl_stats, *nucleus)
        ctx.options = options
        return results(ctx, whole, rank_N, nucleus[1], target_N, shard)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        logits_NV, reference_NV, target_N, stats, kl_stats, *nucleus = ctx.saved_tensors
        shard, is_in_place = ctx.options
        grad = output_gradients(grads, target_N, shard)
        whole_NV = logits_NV if is_in_place else None
        grad_NV = gradient_of_logits(
            logits_NV[:, : shard.limit],
            target_N,
            stats,
            nucleus,
            grad,
            shard,
            divergence=divergence_of(reference_NV, kl_stats, grad.kl),
            out=None if whole_NV is None else whole_NV[:, : shard.limit],
        )
        ignored_N = ignored(target_N, shard.ignore_index)
        if ignored_N is not None:
            # What an ignored row holds may be NaN, and 0 * NaN would reach the gradient.
            grad_NV.masked_fill_(ignored_N[:, None], 0.0)
        return _with_padding(grad_NV, logits_NV, whole_NV), None, None, None


def _with_padding(grad_NV: Tensor, logits_NV: Tensor, whole_NV: Tensor | None) -> Tensor:
    """The gradient with zeros in the padded columns; ``whole_NV`` are the logits it was written over."""
    if whole_NV is not None:
        whole_NV[:, grad_NV.shape[1] :] = 0.0
        # An op may write without autograd's knowledge; this makes it refuse the logits from here on.
        torch.autograd.graph.increment_version(whole_NV)
        return whole_NV.detach()
    padding = logits_NV.shape[1] - grad_NV.shape[1]
    return torch.nn.functional.pad(grad_NV, (0, padding)) if padding else grad_NV


def _check_reference(logits: Tensor, reference: Tensor | None) -> None:
    if reference is None:
        return
    if (reference.shape, reference.dtype) != (logits.shape, logits.dtype):
        raise ValueError(
            f"reference_logits must be like logits, {list(logits.shape)} {logits.dtype}, "
            f"got {list(reference.shape)} {reference.dtype}"
        )
