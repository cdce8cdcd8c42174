"""The entropy over the nucleus: the most probable tokens that together reach a probability p, renormalised.

The nucleus of a row is ``{v : z_v >= floor}``, the floor being the largest logit for which the tokens at or
above it have probability p or more. Equal logits stand or fall together, so nothing depends on the order of
the vocabulary. A nucleus of one token has entropy 0; for p = 1 the nucleus is the vocabulary.

The floor is searched eight bits at a time: a pass adds up, for every value of the next eight bits of a
logit, the probability of the logits whose bits before are those found so far. Probabilities are counted in
whole units of 2^-40 of the largest one, and sums of integers are the same in any order: every split of the
vocabulary over shards and tiles finds the same floor. A pass reads the logits once and sums 256 integers a
token over the shards; bf16 takes two passes, fp16 three, fp32 four and fp64 eight.

The gradient holds the members of the nucleus constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from megaent.ops.divergence import Divergence
from megaent.ops.reference import statistics_dtype
from megaent.ops.rows import DIGIT, NUM_DIGITS
from megaent.ops.token_statistics import (
    OutputGradients,
    Shard,
    combine_shards,
    merge_tiles,
    rounded_partial,
    shard_partial,
    sum_over_shards,
)

Tiles = Callable[[], Iterable[Tensor]]
"""Makes this shard's logits, [N, columns] a tile, as often as it is called."""

_PASSES = {torch.bfloat16: 2, torch.float16: 3, torch.float32: 4, torch.float64: 8}
_ENTRIES = 2**24  # of a copy of some rows


class Nucleus(NamedTuple):
    """Of whole rows."""

    floor_N: Tensor  # the smallest logit in it
    stats: Tensor  # [4, N] of the distribution over it alone, as ``stats_combine`` returns them


def nucleus_of(tiles: Tiles, target_N: Tensor, max_N: Tensor, shard: Shard) -> Nucleus:
    """The nucleus of ``shard.nucleus_p``; a few collectives of the group, one a pass and one for the sums."""
    bare = shard._replace(extras=(), has_reference=False, nucleus_p=None)
    floor_N = _floor(tiles, max_N, shard)
    partial, tile = None, None
    for logits_NV in tiles():
        parts = [
            shard_partial(_inside(logits_NV[rows], floor_N[rows]), None, target_N[rows], bare)
            for rows in _some_rows(logits_NV)
        ]
        tile = torch.cat(parts, dim=1)
        partial = merge_tiles(partial, tile, bare)
    assert partial is not None, "there is a tile, if an empty one"
    assert tile is not None, "there is a tile, if an empty one"
    return Nucleus(floor_N, combine_shards(rounded_partial(partial, bare, tile.dtype), bare).stats)


def _inside(logits_NV: Tensor, floor_N: Tensor) -> Tensor:
    """A copy in which what is below the floor has no probability; NaN stays."""
    return logits_NV.masked_fill(logits_NV < floor_N[:, None], -torch.inf)


def _some_rows(logits_NV: Tensor) -> Iterator[slice]:
    """All rows, a few at a time; one slice that is empty where there are none."""
    num_rows, num_columns = logits_NV.shape
    step = max(1, _ENTRIES // max(1, num_columns))
    for start in range(0, max(num_rows, 1), step):
        yield slice(start, min(start + step, num_rows))


# ---------------------------------------------------------------- the floor


def _floor(tiles: Tiles, max_N: Tensor, shard: Shard) -> Tensor:
    """[N] in the type of the statistics."""
    assert shard.nucleus_p is not None, "a nucleus is asked for"
    if shard.nucleus_p == 1.0:
        return torch.full_like(max_N, -torch.inf)
    width = 64 if max_N.dtype == torch.float64 else 32
    prefix_N = torch.zeros_like(max_N, dtype=torch.int64)
    needed_N: Tensor | None = None
    for number in range(_PASSES[shard.dtype]):
        shift = width - DIGIT * (number + 1)
        mass_ND = _mass(tiles, max_N, prefix_N, shift, shard)
        if needed_N is None:
            needed_N = (mass_ND.sum(1).double() * shard.nucleus_p).ceil().long().clamp(min=1)
        digit_N, above_N = _digit(mass_ND, needed_N)
        needed_N = needed_N - above_N
        prefix_N = (prefix_N << DIGIT) | digit_N
    return _logit_of(prefix_N, shift, max_N.dtype)


def _mass(tiles: Tiles, max_N: Tensor, prefix_N: Tensor, shift: int, shard: Shard) -> Tensor:
    """[N, 256] of all columns of all shards."""
    mass_ND = torch.zeros(max_N.shape[0], NUM_DIGITS, dtype=torch.int64, device=max_N.device)
    for logits_NV in tiles():
        mass_ND += shard.backend.mass_by_digit(
            logits_NV, max_N, prefix_N, shift=shift, inv_temperature=shard.inv_temperature
        )
    return sum_over_shards(mass_ND, shard.group)


def _digit(mass_ND: Tensor, needed_N: Tensor) -> tuple[Tensor, Tensor]:
    """The largest digit at or above which enough lies, and what lies above it."""
    at_or_above_ND = mass_ND.flip(1).cumsum(1).flip(1)
    digit_N = ((at_or_above_ND >= needed_N[:, None]).sum(1) - 1).clamp(min=0)
    above_ND = at_or_above_ND - mass_ND
    return digit_N, above_ND.gather(1, digit_N[:, None])[:, 0]


def _logit_of(prefix_N: Tensor, shift: int, dtype: torch.dtype) -> Tensor:
    """[N] the float with the ordered bits ``prefix``; the bits that its type lacks are 0 in the float."""
    ones = (1 << shift) - 1
    if dtype == torch.float64:
        is_positive_N = prefix_N < 0
        return torch.where(is_positive_N, prefix_N ^ torch.iinfo(torch.int64).min, ~prefix_N).view(dtype)
    key_N = prefix_N << shift
    is_positive_N = key_N >= 2**31
    bits_N = torch.where(is_positive_N, key_N - 2**31, -1 - (key_N | ones))
    return bits_N.to(torch.int32).view(dtype)


# ---------------------------------------------------------------- the way back


def gradient_of_logits(
    logits_NV: Tensor,
    target_N: Tensor,
    stats: Tensor,
    nucleus: Sequence[Tensor | None],
    grad: OutputGradients,
    shard: Shard,
    *,
    divergence: Divergence | None,
    out: Tensor | None,
) -> Tensor:
    """``logits_stats_backward``, with that of the nucleus' entropy; added up in fp32 and rounded once."""
    floor_N, inner_stats = nucleus
    if grad.nucleus_entropy is None or floor_N is None or inner_stats is None:
        return _backward(logits_NV, target_N, stats, grad.log_prob, grad.entropy, shard, divergence, out)
    result_NV = torch.empty_like(logits_NV) if out is None else out
    for rows in _some_rows(logits_NV):
        z_KV = logits_NV[rows].to(statistics_dtype(logits_NV.dtype))
        outer = _backward(
            z_KV,
            target_N[rows],
            stats[:, rows],
            None if grad.log_prob is None else grad.log_prob[rows],
            None if grad.entropy is None else grad.entropy[rows],
            shard,
            None if divergence is None else divergence.of(rows, z_KV.dtype),
        )
        inner = _backward(
            _inside(z_KV, floor_N[rows]),
            target_N[rows],
            inner_stats[:, rows],
            None,
            grad.nucleus_entropy[rows],
            shard,
        )
        result_NV[rows] = outer + inner
    return result_NV


def _backward(
    logits_NV: Tensor,
    target_N: Tensor,
    stats: Tensor,
    grad_log_prob_N: Tensor | None,
    grad_entropy_N: Tensor | None,
    shard: Shard,
    divergence: Divergence | None = None,
    out: Tensor | None = None,
) -> Tensor:
    return shard.backend.logits_stats_backward(
        logits_NV,
        target_N,
        stats,
        grad_log_prob_N=grad_log_prob_N,
        grad_entropy_N=grad_entropy_N,
        vocab_start=shard.vocab_start,
        inv_temperature=shard.inv_temperature,
        divergence=divergence,
        out=out,
    )
