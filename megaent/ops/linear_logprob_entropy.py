"""The same statistics from hidden states and this rank's rows of the output weight.

The vocabulary is worked off in tiles, so that of the ``[N, V]`` logits only one tile of columns exists at a
time; ``mode="recompute"`` forms them again in the backward pass, ``mode="store"`` keeps them. Each tile reads
its rows of the weight once and writes those of its gradient once.
"""

from __future__ import annotations

from collections.abc import Iterator
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
    merge_tiles,
    output_gradients,
    results,
    rounded_partial,
    shard_of,
    shard_partial,
    sum_over_shards,
)


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
    reference_hidden: Tensor | None = None,
    reference_weight: Tensor | None = None,
    nucleus_p: float | None = None,
    backend: str | None = None,
    mode: str = "recompute",
    workspace_bytes: int | None = None,
) -> TokenStatistics:
    """``logprob_entropy(hidden @ weight.T, target, …)`` without ``[N, V]`` in memory.

    ``hidden`` [N, D], ``weight`` [V, D] this rank's rows, ``target`` [N] int64. The gradient of
    ``hidden`` is this rank's part: under tensor parallelism the caller sums it over ``group``
    (or reduce-scatters it under sequence parallelism). ``workspace_bytes`` bounds the logits of
    one tile, in their own type; results are repeatable for a fixed value of it. Without it a tile
    may take 1 GiB on a GPU and 64 MiB on a CPU.

    ``reference_hidden`` [N, E] and ``reference_weight`` [V, E], another policy's in the same type, add ``kl``
    as ``reference_logits`` does there; neither receives a gradient. A tile then holds the logits of
    both policies, and half as many columns fit the workspace.

    ``nucleus_p`` adds ``nucleus_entropy`` as there; in the mode "recompute" the policy's logits are formed
    again for each of its passes, three times more for bf16 and five for fp32.

    "target_rank" among the ``extras`` compares every logit with the target's once all shards know it:
    in the mode "recompute" the policy's logits are formed a second time for that.

    Raises ValueError as ``logprob_entropy`` does, and for an unknown ``mode``.
    """
    if mode not in ("recompute", "store"):
        raise ValueError(f"mode must be recompute or store, got {mode!r}")
    heads = _Heads(hidden, weight, reference_hidden, reference_weight)
    heads.check()
    shard = shard_of(
        hidden,
        target,
        weight.shape[0],
        temperature=temperature,
        vocab_start=vocab_start,
        vocab_size=vocab_size,
        ignore_index=ignore_index,
        group=group,
        extras=extras,
        has_reference=heads.has_reference,
        nucleus_p=nucleus_p,
        backend=backend,
    )
    width = columns_per_tile(hidden, workspace_bytes, num_policies=2 if heads.has_reference else 1)
    options = _Options(shard, mode == "store", width)
    found = _LinearLogprobEntropy.apply(*heads.without(ignored(target, ignore_index)), target, options)
    return TokenStatistics(**dict(zip(shard.names(), found, strict=True)))


def columns_per_tile(hidden_ND: Tensor, workspace_bytes: int | None, *, num_policies: int = 1) -> int:
    """How many columns of logits fit the workspace; one at least, and a multiple of 64 where that many do."""
    column_bytes = num_policies * hidden_ND.shape[0] * hidden_ND.itemsize
    default = 2**30 if hidden_ND.device.type == "cuda" else 2**26
    width = max(1, (workspace_bytes or default) // max(1, column_bytes))
    return width if width < 64 else width - width % 64


class _Options(NamedTuple):
    shard: Shard
    is_stored: bool
    width: int  # columns of a tile

    def tiles(self) -> list[slice]:
        """Of the columns that are not padding; one that is empty where there are none."""
        limit = self.shard.limit
        starts = range(0, max(limit, 1), self.width)
        return [slice(start, min(start + self.width, limit)) for start in starts]


class _Logits(NamedTuple):
    """Of one tile of columns."""

    policy: Tensor
    reference: Tensor | None


class _Heads(NamedTuple):
    """What the logits of both policies are made of."""

    hidden_ND: Tensor
    weight_VD: Tensor
    reference_hidden_NE: Tensor | None
    reference_weight_VE: Tensor | None

    @property
    def has_reference(self) -> bool:
        return self.reference_hidden_NE is not None or self.reference_weight_VE is not None

    def check(self) -> None:
        _check_head("hidden", self.hidden_ND, "weight", self.weight_VD)
        if not self.has_reference:
            return
        if self.reference_hidden_NE is None or self.reference_weight_VE is None:
            missing = "reference_hidden" if self.reference_hidden_NE is None else "reference_weight"
            raise ValueError(f"reference_hidden and reference_weight go together, {missing} is missing")
        _check_head(
            "reference_hidden", self.reference_hidden_NE, "reference_weight", self.reference_weight_VE
        )
        found = self.reference_hidden_NE.shape[0], self.reference_weight_VE.shape[0]
        expected = self.hidden_ND.shape[0], self.weight_VD.shape[0]
        if found != expected:
            raise ValueError(
                "reference_hidden and reference_weight must have as many rows as hidden and weight, "
                f"{expected[0]} and {expected[1]}, got {found[0]} and {found[1]}"
            )
        dtypes = self.reference_hidden_NE.dtype, self.reference_weight_VE.dtype
        if set(dtypes) != {self.hidden_ND.dtype}:
            raise ValueError(
                f"reference_hidden and reference_weight must be {self.hidden_ND.dtype} as hidden is, "
                f"got {dtypes[0]} and {dtypes[1]}"
            )

    def without(self, ignored_N: Tensor | None) -> _Heads:
        """With 0 for ignored rows: they may hold NaN, and 0 * NaN would reach the weight's gradient."""
        if ignored_N is None:
            return self
        hidden_ND = self.hidden_ND.masked_fill(ignored_N[:, None], 0.0)
        reference_NE = self.reference_hidden_NE
        if reference_NE is not None:
            reference_NE = reference_NE.masked_fill(ignored_N[:, None], 0.0)
        return self._replace(hidden_ND=hidden_ND, reference_hidden_NE=reference_NE)

    def policy_logits(self, columns: slice) -> Tensor:
        return self.hidden_ND @ self.weight_VD[columns].T

    def logits(self, columns: slice) -> _Logits:
        if self.reference_hidden_NE is None or self.reference_weight_VE is None:
            return _Logits(self.policy_logits(columns), None)
        reference_NV = self.reference_hidden_NE @ self.reference_weight_VE[columns].T
        return _Logits(self.policy_logits(columns), reference_NV)


def _check_head(hidden_name: str, hidden: Tensor, weight_name: str, weight: Tensor) -> None:
    if hidden.dim() != 2 or weight.dim() != 2 or weight.shape[1] != hidden.shape[1]:
        raise ValueError(
            f"{weight_name} must have shape [V, D] with D = {hidden.shape[-1]} as in {hidden_name}, "
            f"got {list(weight.shape)} and {list(hidden.shape)}"
        )


class _LinearLogprobEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        reference_hidden_NE: Tensor | None,
        reference_weight_VE: Tensor | None,
        target_N: Tensor,
        options: _Options,
    ) -> tuple[Tensor, ...]:
        heads = _Heads(hidden_ND, weight_VD, reference_hidden_NE, reference_weight_VE)
        shard, tiles = options.shard, options.tiles()
        partial: Tensor | None = None
        kept: list[_Logits] = []
        for columns in tiles:
            logits = heads.logits(columns)
            tile = shard_partial(logits.policy, logits.reference, target_N, shard.tile(columns))
            partial = merge_tiles(partial, tile, shard)
            if options.is_stored:
                kept.append(logits)
            del logits  # before the next tile's exist
        assert partial is not None, "there is a tile, if an empty one"
        whole = combine_shards(rounded_partial(partial, shard, tile.dtype), shard)

        def policy_tiles() -> Iterator[Tensor]:
            for number, columns in enumerate(tiles):
                yield kept[number].policy if kept else heads.policy_logits(columns)

        rank_N = None
        if "target_rank" in shard.extras:
            rank_N = torch.zeros_like(target_N)
            for logits_NV in policy_tiles():
                rank_N += shard.backend.count_above(logits_NV, whole.target_logit_N)
                del logits_NV  # before the next tile's exist
            rank_N = sum_over_shards(rank_N, shard.group)
        nucleus = (None, None)
        if shard.nucleus_p is not None:
            nucleus = nucleus_of(policy_tiles, target_N, whole.stats[Stat.MAX], shard)
        flat = [tensor for logits in kept for tensor in logits]
        ctx.save_for_backward(*heads, target_N, whole.stats, whole.kl_stats, *nucleus, *flat)
        ctx.options = options
        return results(ctx, whole, rank_N, nucleus[1], target_N, shard)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        heads = _Heads(*ctx.saved_tensors[:4])
        target_N, stats, kl_stats, *nucleus = ctx.saved_tensors[4:9]
        kept = ctx.saved_tensors[9:]
        shard, tiles = ctx.options.shard, ctx.options.tiles()
        grad = output_gradients(grads, target_N, shard)
        # bf16 sums over many tiles would lose the small ones.
        sum_dtype = heads.hidden_ND.dtype if len(tiles) == 1 else stats.dtype
        grad_hidden_ND = torch.empty_like(heads.hidden_ND, dtype=sum_dtype)
        grad_weight_VD = torch.empty_like(heads.weight_VD)
        grad_weight_VD[shard.limit :] = 0.0
        for number, columns in enumerate(tiles):
            logits = _Logits(*kept[2 * number : 2 * number + 2]) if kept else heads.logits(columns)
            grad_NV = gradient_of_logits(
                logits.policy,
                target_N,
                stats,
                nucleus,
                grad,
                shard.tile(columns),
                divergence=divergence_of(logits.reference, kl_stats, grad.kl),
                # Logits made for this tile alone are free to be written over; kept ones may be needed again.
                out=None if kept else logits.policy,
            )
            grad_weight_VD[columns].addmm_(grad_NV.T, heads.hidden_ND, beta=0)
            _add_product(grad_hidden_ND, grad_NV, heads.weight_VD[columns], is_first=number == 0)
            del logits, grad_NV  # before the next tile's exist
        return grad_hidden_ND.to(heads.hidden_ND.dtype), grad_weight_VD, None, None, None, None


def _add_product(sum_ND: Tensor, grad_NV: Tensor, weight_VD: Tensor, *, is_first: bool) -> None:
    """``sum += grad @ weight``, or ``sum =`` it for the first tile; added in the type of the sum."""
    beta = 0 if is_first else 1
    if sum_ND.dtype == grad_NV.dtype:
        sum_ND.addmm_(grad_NV, weight_VD, beta=beta)
    elif sum_ND.device.type == "cuda" and not torch.compiler.is_compiling():
        # torch.compile (2.13) knows no product whose result is of another type.
        torch.addmm(sum_ND, grad_NV, weight_VD, out_dtype=sum_ND.dtype, beta=beta, out=sum_ND)
    elif is_first:
        sum_ND.copy_(grad_NV @ weight_VD)
    else:
        sum_ND += grad_NV @ weight_VD
