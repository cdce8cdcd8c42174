"""What ``logprob_entropy`` and ``linear_logprob_entropy`` have in common: their results, from a shard's rows.

A shard turns its columns into one tensor [K, N] of partial statistics. One all-gather brings those of all
shards together, in rank order; every rank combines them alike. K is 5, and grows by what is asked for: 2 for
the moments, 8 for ``top8_mass``, 3 for ``kl``. ``target_rank`` alone needs a second, small collective, after
the target's logit is known to every shard.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from megaent.ops.backend import Backend, get_backend
from megaent.ops.divergence import KL_ROWS, Divergence, kl_combine, kl_merge, kl_rows
from megaent.ops.reference import NUM_TOP, merge_partials, top_mass
from megaent.ops.rows import Partial, Stat

MOMENTS = ("sum_p2", "varentropy")
EXTRAS = (*MOMENTS, "top8_mass", "target_rank")


class TokenStatistics(NamedTuple):
    """Per token, fp32 (fp64 for fp64 input), temperature applied; the extras carry no gradient."""

    log_prob: Tensor  # [N] nats, of the target
    entropy: Tensor  # [N] nats, of the whole vocabulary
    sum_p2: Tensor | None = None  # [N] collision probability
    varentropy: Tensor | None = None  # [N] nats^2, variance of log p
    top8_mass: Tensor | None = None  # [N] probability of the 8 most probable tokens together
    target_rank: Tensor | None = None  # [N] int64, tokens with a strictly larger logit than the target's
    kl: Tensor | None = None  # [N] nats, KL(policy || reference) over the whole vocabulary
    nucleus_entropy: Tensor | None = None  # [N] nats, of the most probable tokens alone, with a gradient


class Vocabulary(NamedTuple):
    """Where a shard's columns lie in the vocabulary, under the names that both ops take."""

    vocab_start: int = 0
    vocab_size: int | None = None  # true columns of all shards; later ones are padding
    group: ProcessGroup | None = None


class Shard(NamedTuple):
    """This rank's part of the vocabulary, and what is asked of it."""

    backend: Backend
    inv_temperature: float
    vocab_start: int
    limit: int  # columns that are not padding
    ignore_index: int | None
    group: ProcessGroup | None
    extras: tuple[str, ...]
    has_reference: bool
    nucleus_p: float | None
    dtype: torch.dtype  # of the logits

    def tile(self, columns: slice) -> Shard:
        """Some of its columns."""
        return self._replace(vocab_start=self.vocab_start + columns.start)

    def split(self, partial: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of a [K, N]: the partial statistics, those of KL, the top 8; the latter two may be none."""
        num_stats = Partial.number(self.has_moments)
        first_top = num_stats + (KL_ROWS if self.has_reference else 0)
        return partial[:num_stats], partial[num_stats:first_top], partial[first_top:]

    @property
    def has_moments(self) -> bool:
        return any(name in MOMENTS for name in self.extras)

    def names(self) -> tuple[str, ...]:
        """Fields of ``TokenStatistics`` in the order in which ``results`` returns them."""
        kl = ("kl",) if self.has_reference else ()
        nucleus = () if self.nucleus_p is None else ("nucleus_entropy",)
        return ("log_prob", "entropy", *kl, *nucleus, *self.extras)


class Whole(NamedTuple):
    """Of whole rows."""

    stats: Tensor  # [4 or 6, N] as ``stats_combine`` returns them
    kl_stats: Tensor | None  # [2, N] KL and rho
    top_mass_N: Tensor | None
    target_logit_N: Tensor


# ---------------------------------------------------------------- the way there


def shard_partial(logits_NV: Tensor, reference_NV: Tensor | None, target_N: Tensor, shard: Shard) -> Tensor:
    """[K, N] what this shard tells the others: the partial statistics, then those of KL, then the top 8."""
    backend = shard.backend

    def stats(rows_NV: Tensor, moments: bool) -> Tensor:
        return backend.logits_stats(
            rows_NV,
            target_N,
            vocab_start=shard.vocab_start,
            inv_temperature=shard.inv_temperature,
            moments=moments,
        )

    partial = stats(logits_NV, shard.has_moments)
    rows = [partial]
    if reference_NV is not None:
        rows.append(
            backend.kl_partial(
                logits_NV,
                reference_NV,
                partial,
                stats(reference_NV, False),
                inv_temperature=shard.inv_temperature,
            )
        )
    if "top8_mass" in shard.extras:
        rows.append(backend.top_logits(logits_NV).to(partial.dtype))
    return torch.cat(rows) if len(rows) > 1 else partial


def merge_tiles(so_far: Tensor | None, tile: Tensor, shard: Shard) -> Tensor:
    """[K, N] of the columns so far and of those of the next tile, in fp64 from the second on."""
    if so_far is None:
        return tile
    stats, kl, top = zip(shard.split(so_far.double()), shard.split(tile.double()), strict=True)
    rows = [merge_partials(stats, inv_temperature=shard.inv_temperature)]
    if shard.has_reference:
        rows.append(kl_merge(stats, kl, inv_temperature=shard.inv_temperature))
    if "top8_mass" in shard.extras:
        rows.append(torch.cat(top).topk(NUM_TOP, dim=0).values)
    return torch.cat(rows)


def rounded_partial(partial: Tensor, shard: Shard, dtype: torch.dtype) -> Tensor:
    """What ``merge_tiles`` returned, as one tile of all columns would be."""
    if partial.dtype == dtype:
        return partial
    stats, kl, top = shard.split(partial)
    if shard.has_reference:
        kl = kl_rows(kl[0], kl[1] + kl[2], dtype)
    return torch.cat([stats.to(dtype), kl.to(dtype), top.to(dtype)])


def combine_shards(partial: Tensor, shard: Shard) -> Whole:
    """Statistics of whole rows from this shard's [K, N] and the others'; a collective of the group."""
    parts = _gather(partial, shard.group)
    stat_parts, kl_parts, top_parts = zip(*(shard.split(part) for part in parts), strict=True)
    stats = shard.backend.stats_combine(stat_parts, inv_temperature=shard.inv_temperature)
    kl_stats, top_mass_N = None, None
    if shard.has_reference:
        kl_stats = kl_combine(stat_parts, kl_parts, inv_temperature=shard.inv_temperature)
    if "top8_mass" in shard.extras:
        top_mass_N = top_mass(top_parts, stats, inv_temperature=shard.inv_temperature)
    # One shard has the target's logit, the others 0.
    return Whole(stats, kl_stats, top_mass_N, torch.stack([part[Partial.TARGET] for part in parts]).sum(0))


def _gather(partial: Tensor, group: ProcessGroup | None) -> list[Tensor]:
    if group is None or group.size() == 1:
        return [partial]
    gathered = [torch.empty_like(partial) for _ in range(group.size())]
    dist.all_gather(gathered, partial.contiguous(), group=group)
    return gathered


def sum_over_shards(count_N: Tensor, group: ProcessGroup | None) -> Tensor:
    if group is not None and group.size() > 1:
        dist.all_reduce(count_N, group=group)
    return count_N


def results(
    ctx,
    whole: Whole,
    rank_N: Tensor | None,
    nucleus_stats: Tensor | None,
    target_N: Tensor,
    shard: Shard,
) -> tuple[Tensor, ...]:
    """The outputs named by ``shard.names()``, 0 where the target is ignored; the extras without gradient."""
    ctx.set_materialize_grads(False)
    known = {
        "log_prob": whole.stats[Stat.LOG_PROB],
        "entropy": whole.stats[Stat.ENTROPY],
        "sum_p2": whole.stats[Stat.SUM_P2] if shard.has_moments else None,
        "varentropy": whole.stats[Stat.VARENTROPY] if shard.has_moments else None,
        "top8_mass": whole.top_mass_N,
        "target_rank": rank_N,
        "kl": None if whole.kl_stats is None else whole.kl_stats[0],
        "nucleus_entropy": None if nucleus_stats is None else nucleus_stats[Stat.ENTROPY],
    }
    ignored_N = ignored(target_N, shard.ignore_index)
    chosen = [silence(known[name], ignored_N) for name in shard.names()]
    # Outputs must own their memory: views of `stats` would alias what backward saves.
    outputs = tuple(value.clone() for value in chosen if value is not None)
    ctx.mark_non_differentiable(*outputs[len(outputs) - len(shard.extras) :])
    return outputs


# ---------------------------------------------------------------- the way back


class OutputGradients(NamedTuple):
    """[N] each; None where nothing was made of the output."""

    log_prob: Tensor | None
    entropy: Tensor | None
    kl: Tensor | None
    nucleus_entropy: Tensor | None


def output_gradients(grads: tuple[Tensor | None, ...], target_N: Tensor, shard: Shard) -> OutputGradients:
    """Of the outputs that have one, from those of all outputs; 0 where the target is ignored."""
    ignored_N = ignored(target_N, shard.ignore_index)
    by_name = dict(zip(shard.names(), grads, strict=True))
    return OutputGradients(*(silence(by_name.get(name), ignored_N) for name in OutputGradients._fields))


def divergence_of(
    reference_NV: Tensor | None, kl_stats: Tensor | None, grad_kl_N: Tensor | None
) -> Divergence | None:
    if reference_NV is None or kl_stats is None or grad_kl_N is None:
        return None
    return Divergence(reference_NV, kl_stats, grad_kl_N)


# ---------------------------------------------------------------- ignored tokens


def ignored(target_N: Tensor, ignore_index: int | None) -> Tensor | None:
    return None if ignore_index is None else target_N == ignore_index


def silence(value_N: Tensor | None, ignored_N: Tensor | None) -> Tensor | None:
    """``value_N`` with 0 where the row is ignored."""
    return value_N if value_N is None or ignored_N is None else value_N.masked_fill(ignored_N, 0)


# ---------------------------------------------------------------- arguments


def shard_of(
    rows: Tensor,
    target: Tensor,
    num_columns: int,
    *,
    temperature: float,
    vocab_start: int,
    vocab_size: int | None,
    ignore_index: int | None,
    group: ProcessGroup | None,
    extras: tuple[str, ...],
    has_reference: bool,
    nucleus_p: float | None,
    backend: str | None,
) -> Shard:
    """The checked options of either op for ``rows`` [N, …] that become logits of ``num_columns`` columns."""
    _check_options(rows, target, temperature, extras)
    if nucleus_p is not None and not 0.0 < nucleus_p <= 1.0:
        raise ValueError(f"nucleus_p must lie in (0, 1], got {nucleus_p}")
    if vocab_size is not None:
        whole, limit = vocab_size, max(0, min(num_columns, vocab_size - vocab_start))
    else:
        # The shards may be uneven, so only one shard's width is a sure bound.
        whole, limit = (num_columns if group is None else torch.iinfo(torch.int64).max), num_columns
    _check_target(target, whole, ignore_index)
    implementation = get_backend(backend, rows.device.type, rows.dtype)
    return Shard(
        implementation,
        1.0 / temperature,
        vocab_start,
        limit,
        ignore_index,
        group,
        extras,
        has_reference,
        nucleus_p,
        rows.dtype,
    )


def _check_options(rows: Tensor, target: Tensor, temperature: float, extras: tuple[str, ...]) -> None:
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
    if unknown or len(set(extras)) != len(extras):
        raise ValueError(f"extras must be among {EXTRAS}, each once, got {extras}")


def _check_target(target_N: Tensor, vocab_size: int, ignore_index: int | None) -> None:
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
