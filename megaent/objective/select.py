"""Exact order statistics over a population: who is among the k smallest, whatever the split.

A value is turned into an integer of the same order and searched digit by digit: each pass counts the
candidates by their next digit (one small all-reduce) and keeps those of the digit in which the rank
falls. Six passes find any fp64 exactly, and cost does not grow with the number of replicas. Ties are
broken by ``Tokens.order`` in a second search, which runs only when a tie straddles the limit.

M minibatches, each searched on its own; N tokens of this replica.
"""

from __future__ import annotations

import torch
from torch import Tensor

from megaent.objective.seen import Tokens

_DIGITS = ((53, 11), (42, 11), (31, 11), (20, 11), (10, 10), (0, 10))  # (shift, bits), highest first
_TOP_BIT = torch.iinfo(torch.int64).min


def smallest(tokens: Tokens, value_N: Tensor, count_M: Tensor, where_N: Tensor | None = None) -> Tensor:
    """[N] bool: the ``count_M`` smallest of each minibatch, ties to the lower ``order``.

    Only counted tokens (and those ``where_N``) take part; a count above their number takes all. Raises
    ValueError for a NaN among them.
    """
    where_N = tokens.counted() if where_N is None else where_N & tokens.counted()
    key_N = ordered_integers(value_N, where_N)
    available_M = tokens.total(torch.ones_like(value_N, dtype=torch.float64), where_N).long()
    count_M = torch.minimum(count_M.to(available_M), available_M)
    limit_N = tokens.spread(_ranked(tokens, key_N, where_N, count_M - 1))
    has_any_N = tokens.spread(count_M) > 0
    below_N = where_N & has_any_N & (key_N < limit_N)
    tied_N = where_N & has_any_N & (key_N == limit_N)
    ones_N = torch.ones_like(value_N, dtype=torch.float64)
    left_M = count_M - tokens.total(ones_N, below_N).long()
    num_tied_M = tokens.total(ones_N, tied_N).long()
    if bool((left_M < num_tied_M).any()):
        last_M = _ranked(tokens, tokens.order, tied_N, left_M - 1)
        tied_N &= (tokens.order <= tokens.spread(last_M)) & (tokens.spread(left_M) > 0)
    return below_N | tied_N


def largest(tokens: Tokens, value_N: Tensor, count_M: Tensor, where_N: Tensor | None = None) -> Tensor:
    """[N] bool: the ``count_M`` largest of each minibatch, ties to the lower ``order``."""
    return smallest(tokens, -value_N, count_M, where_N)


def quantile(tokens: Tokens, value_N: Tensor, q: float) -> Tensor:
    """[N] fp64: the q-quantile of each token's minibatch, linear between order statistics.

    The same definition as ``torch.quantile``; 0 for a minibatch without counted tokens. Between a finite
    number and an infinite one it is the infinite one.
    """
    where_N = tokens.counted()
    value_N = value_N.double()
    key_N = ordered_integers(value_N, where_N)
    count_M = tokens.total(torch.ones_like(value_N), where_N)
    place_M = (count_M - 1).clamp(min=0) * q
    lower_M = _to_float(_ranked(tokens, key_N, where_N, place_M.floor().long()))
    upper_M = _to_float(_ranked(tokens, key_N, where_N, place_M.ceil().long()))
    value_M = _between(lower_M, upper_M, place_M - place_M.floor())
    return tokens.spread(torch.where(count_M > 0, value_M, 0.0))


def _between(lower_M: Tensor, upper_M: Tensor, share_M: Tensor) -> Tensor:
    """lower + share (upper - lower), where inf - inf and 0 * inf must not come up."""
    finite_M = torch.lerp(lower_M, upper_M, share_M)
    mixed_M = torch.where(lower_M.isinf() | upper_M.isinf(), lower_M + upper_M, finite_M)
    return torch.where((share_M == 0) | (lower_M == upper_M), lower_M, mixed_M)


def ordered_integers(value_N: Tensor, where_N: Tensor) -> Tensor:
    """[N] int64 in the order of the floats, -0.0 and 0.0 equal; NaN outside ``where_N`` does not matter."""
    if bool(torch.isnan(value_N[where_N]).any()):
        raise ValueError("a NaN cannot be ranked; look at the log-probs, entropies and rewards of this step")
    bits_N = (value_N.double() + 0.0).view(torch.int64)
    return torch.where(bits_N < 0, bits_N ^ torch.iinfo(torch.int64).max, bits_N)


def _to_float(key_M: Tensor) -> Tensor:
    bits_M = torch.where(key_M < 0, key_M ^ torch.iinfo(torch.int64).max, key_M)
    return bits_M.view(torch.float64)


def _ranked(tokens: Tokens, key_N: Tensor, where_N: Tensor, rank_M: Tensor) -> Tensor:
    """[M] the key of each minibatch with ``rank_M`` smaller ones before it; a rank outside is clamped."""
    unsigned_N = key_N ^ _TOP_BIT
    rank_M = rank_M.clamp(min=0)
    found_M = torch.zeros(tokens.num_minibatches, dtype=torch.int64, device=key_N.device)
    candidate_N = where_N
    for shift, bits in _DIGITS:
        digit_N = (unsigned_N >> shift) & ((1 << bits) - 1)
        width = 1 << bits
        place_N = tokens.minibatch * width + digit_N
        counts = torch.bincount(place_N[candidate_N], minlength=tokens.num_minibatches * width)
        counts_MB = tokens.population.sum(counts).view(tokens.num_minibatches, width)
        cumulated_MB = counts_MB.cumsum(1)
        chosen_M = (cumulated_MB <= rank_M[:, None]).sum(1).clamp(max=width - 1)
        before_M = torch.where(
            chosen_M > 0, cumulated_MB.gather(1, (chosen_M - 1).clamp(min=0)[:, None])[:, 0], 0
        )
        rank_M = rank_M - before_M
        found_M |= chosen_M << shift
        candidate_N = candidate_N & (digit_N == tokens.spread(chosen_M))
    return found_M ^ _TOP_BIT
