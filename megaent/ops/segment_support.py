"""What the patterns over every token of a group tell: stretches of one response that come back in others.

A *segment* is a run of tokens of one response, half-open ``[start, stop)``. A *pattern* is a segment that
occurs, whole, inside a segment of another response. The search is in C++ (``csrc/cpu/segment_support.cpp``)
or in torch (``search_by_doubling``), which is the truth of the other.

L tokens of one group, packed; K segments; R responses of the group.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from megaent.ops.backend import announce, available_backends, not_there


class Segments(NamedTuple):
    """Of one group, in the order of responses and of places; [K] int64 each."""

    start: Tensor  # into the packed tokens of the group
    stop: Tensor
    owner: Tensor  # response, from 0


class Support(NamedTuple):
    same: Tensor  # [L] int64, most responses of the token's own correctness that hold a pattern over it, or 0
    is_shared: Tensor  # [L] bool, a pattern over it also occurs in a response of the other correctness


class _Occurrences(NamedTuple):
    start: Tensor  # [M] into the packed tokens of the group
    stop: Tensor
    pattern: Tensor  # [M] int64, equal for equal patterns, counted up over all lengths


def segment_support(token_L: Tensor, found: Segments, correct_R: Tensor) -> Support:
    """For every token what the patterns over it tell; every occurrence inside a segment counts.

    C++ or torch, whichever ``search_backend`` says; both give the same integers.
    """
    if search_backend(token_L.device.type) == "reference":
        return search_by_doubling(token_L, found, correct_R)
    from megaent.ops import cpu  # loads the library, which need not be built

    return Support(*cpu.segment_support(token_L, found.start, found.stop, found.owner, correct_R))


def search_by_doubling(token_L: Tensor, found: Segments, correct_R: Tensor) -> Support:
    """``segment_support`` in torch, on any device.

    Equal windows are found exactly, without comparing pairs: windows of length 2^k are numbered by
    doubling, and two windows of any length l are equal when their first and last 2^k tokens are, with
    2^k the largest power up to l. The cost is one pass over the tokens per distinct segment length.
    """
    num_tokens, num_responses = token_L.numel(), correct_R.numel()
    same_L = torch.zeros(num_tokens, dtype=torch.int64, device=token_L.device)
    shared_L = torch.zeros(num_tokens, dtype=torch.bool, device=token_L.device)
    at = _occurrences(token_L, found)
    if at.start.numel() == 0:
        return Support(same_L, shared_L)
    owner_M = found.owner[torch.searchsorted(found.start, at.start, right=True) - 1]
    num_patterns = int(at.pattern.max()) + 1
    pair = torch.unique(at.pattern * num_responses + owner_M)
    pattern_Q, is_right_Q = pair // num_responses, correct_R[pair % num_responses]
    right_P = torch.bincount(pattern_Q[is_right_Q], minlength=num_patterns)
    wrong_P = torch.bincount(pattern_Q[~is_right_Q], minlength=num_patterns)
    is_shared_M = ((right_P > 0) & (wrong_P > 0))[at.pattern]
    count_M = (right_P + wrong_P)[at.pattern]
    shared_L = _covered(at, is_shared_M, num_tokens)
    # Of a pattern in one class alone, the owners are all of the token's own correctness.
    for count in torch.unique(count_M[~is_shared_M]).tolist():
        if count > 1:
            same_L[_covered(at, ~is_shared_M & (count_M == count), num_tokens)] = count
    return Support(same_L, shared_L)


def _covered(at: _Occurrences, where_M: Tensor, num_tokens: int) -> Tensor:
    """[L] True under one of the occurrences."""
    opened = torch.bincount(at.start[where_M], minlength=num_tokens + 1)
    closed = torch.bincount(at.stop[where_M], minlength=num_tokens + 1)
    return (opened - closed).cumsum(0)[:num_tokens] > 0


def _occurrences(token_L: Tensor, found: Segments) -> _Occurrences:
    """Every place inside a segment that equals a whole segment, the segment itself included."""
    length_K = found.stop - found.start
    lengths = torch.unique(length_K).tolist()
    starts, stops, patterns, num_patterns = [], [], [], 0
    for reach, number_L, left_L, place_L in _windows(token_L, found):
        for length in [length for length in lengths if reach <= length < 2 * reach]:
            first_K = found.start[length_K == length]
            pattern_K = torch.unique(_key(number_L, first_K, length - reach))
            # Places stand in descending order of the tokens left to them.
            open_ = place_L[: int(torch.searchsorted(-left_L, -length, right=True))]
            begins = torch.zeros(token_L.numel(), dtype=torch.bool, device=token_L.device)
            begins[number_L[first_K]] = True
            open_ = open_[begins[number_L[open_]]]
            key = _key(number_L, open_, length - reach)
            index = torch.searchsorted(pattern_K, key).clamp(max=pattern_K.numel() - 1)
            is_match = pattern_K[index] == key
            starts.append(open_[is_match])
            stops.append(open_[is_match] + length)
            patterns.append(index[is_match] + num_patterns)
            num_patterns += pattern_K.numel()
    none = torch.zeros(0, dtype=torch.int64, device=token_L.device)
    return _Occurrences(torch.cat([none, *starts]), torch.cat([none, *stops]), torch.cat([none, *patterns]))


def _windows(token_L: Tensor, found: Segments) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """For 2^k = 1, 2, 4, ...: 2^k; equal numbers for equal windows of 2^k tokens; places with room for one.

    The places come with the tokens left to them in their segment, most first.
    """
    length_K = found.stop - found.start
    if length_K.numel() == 0:
        return
    last_K = torch.repeat_interleave(found.stop, length_K)
    offset_K = torch.repeat_interleave(found.start - (length_K.cumsum(0) - length_K), length_K)
    place_L = torch.arange(last_K.numel(), device=token_L.device) + offset_K
    left_L, order = (last_K - place_L).sort(descending=True, stable=True)
    place_L = place_L[order]
    number_L = torch.zeros_like(token_L)
    number_L[place_L] = torch.unique(token_L[place_L], return_inverse=True)[1]
    reach, longest = 1, int(left_L[0])
    while True:
        yield reach, number_L, left_L, place_L
        if 2 * reach > longest:
            return
        count = int(torch.searchsorted(-left_L, -2 * reach, right=True))
        left_L, place_L = left_L[:count], place_L[:count]
        doubled = torch.unique(_key(number_L, place_L, reach), return_inverse=True)[1]
        number_L = torch.zeros_like(token_L)
        number_L[place_L] = doubled
        reach *= 2


def _key(number_L: Tensor, place: Tensor, step: int) -> Tensor:
    """One number for the pair of windows at a place and ``step`` tokens on; fits for 2^31 tokens."""
    return number_L[place] * number_L.numel() + number_L[place + step]


def search_backend(device: str) -> str:
    """Who searches for segments that come back: ``cpu`` (C++) or ``reference`` (torch).

    The C++ search where it is built and the tokens are on a CPU, unless ``MEGAENT_OPS_BACKEND`` names
    ``reference``; the backends of a GPU have none of their own and say nothing here. Both give the same
    integers. Raises ValueError where ``cpu`` is named and is not built.
    """
    named = os.environ.get("MEGAENT_OPS_BACKEND") or None
    if named is not None and named not in available_backends():
        raise ValueError(not_there(named))
    is_compiled = device == "cpu" and "cpu" in available_backends() and named != "reference"
    chosen = "cpu" if is_compiled else "reference"
    announce("backend of segment_support", chosen)
    return chosen
