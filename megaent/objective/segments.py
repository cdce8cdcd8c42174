"""Low-entropy segments of a group's responses, and the published search for those that come back.

A *segment* is a maximal run of low-entropy tokens, half-open ``[start, stop)``; ``segment_support``
(megaent.ops) says which come back, in any order of the responses. ``linked_patterns`` is the published
search, which depends on the order of the responses.

L tokens of one group, packed; K segments; R responses of the group.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import torch
from torch import Tensor

from megaent.ops.segment_support import Segments

Pattern = tuple[int, ...]
"""Token ids."""


def segments(is_low_L: Tensor, owner_L: Tensor, min_length: int) -> Segments:
    """The maximal runs of True inside one response, of ``min_length`` tokens or more."""
    place_L = torch.arange(is_low_L.numel(), device=is_low_L.device)
    joins_L = torch.zeros_like(is_low_L)
    joins_L[1:] = is_low_L[1:] & is_low_L[:-1] & (owner_L[1:] == owner_L[:-1])
    start_K = place_L[is_low_L & ~joins_L]
    is_last_L = torch.ones_like(is_low_L)
    is_last_L[:-1] = ~joins_L[1:]
    stop_K = place_L[is_low_L & is_last_L] + 1
    is_long_K = stop_K - start_K >= min_length
    start_K, stop_K = start_K[is_long_K], stop_K[is_long_K]
    return Segments(start_K, stop_K, owner_L[start_K])


# ---------------------------------------------------------------- as published


def linked_patterns(
    tokens_R: Sequence[Sequence[int]], runs_R: Sequence[Sequence[tuple[int, int]]], correct_R: Sequence[bool]
) -> dict[Pattern, dict[int, int]]:
    """Pattern -> {response: where it starts}, by the authors' search; the order of keys matters.

    Correct responses come first. Every segment is linked to the first response that holds it and to no
    other; a pattern inside an older one replaces it, one around an older one joins it, the first that
    fits; of several places in a response the last one written is kept.
    """
    code = {
        token: chr(number) for number, token in enumerate(sorted({t for row in tokens_R for t in row}), 1)
    }
    texts = ["".join(code[token] for token in row) for row in tokens_R]
    order = sorted(range(len(tokens_R)), key=lambda response: not correct_R[response])
    joined = {r: "\0".join(texts[r][start:stop] for start, stop in runs_R[r]) for r in order}
    linked: dict[str, dict[int, int]] = {}
    for response in order:
        for start, stop in runs_R[response]:
            segment = texts[response][start:stop]
            holder = next((r for r in order if r != response and segment in joined[r]), None)
            if holder is not None:
                held_at = _run_start(runs_R[holder], joined[holder].index(segment))
                _link(linked, segment, (response, start), (holder, held_at), texts[holder])
    token_of = {char: token for token, char in code.items()}
    return {tuple(token_of[char] for char in pattern): places for pattern, places in linked.items()}


def _run_start(runs: Sequence[tuple[int, int]], place: int) -> int:
    """Start of the run that holds ``place`` of the runs' texts joined by one character each."""
    starts = [0]
    for start, stop in runs[:-1]:
        starts.append(starts[-1] + stop - start + 1)
    return runs[bisect.bisect_right(starts, place) - 1][0]


def _link(
    linked: dict[str, dict[int, int]],
    segment: str,
    own: tuple[int, int],
    held: tuple[int, int],
    holder_text: str,
) -> None:
    """Enter a segment, its own (response, start) and the (response, start of the run) that holds it."""
    (response, start), (holder, run_start) = own, held
    for pattern in list(linked):
        places = linked[pattern]
        if pattern in segment:
            places[response] = start + segment.index(pattern)
            places[holder] = holder_text.index(pattern, run_start)
            return
        if segment in pattern:
            del linked[pattern]
            inside = pattern.index(segment)
            moved = {other: place + inside for other, place in places.items()}
            moved[response] = start
            moved[holder] = holder_text.index(segment, run_start)
            linked[segment] = moved
            return
    linked[segment] = {response: start, holder: holder_text.index(segment, run_start)}
