"""Questions that are nearly the same: they share most of their runs of five words.

Pairs are proposed by MinHash (Broder 1997) in bands (Leskovec, Rajaraman and Ullman, Mining of Massive
Datasets, ch. 3) and judged by their exact Jaccard similarity, so none is reported that is not there. Of pairs
with a similarity of 0.8 one in twenty million is not proposed, of 0.6 one in 90, of 0.5 one in eight.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from megaent.data.overlap import words_of

RUN = 5  # words
_BANDS, _ROWS = 32, 4


class Near(NamedTuple):
    place: str
    other: str  # the earlier one, which is no near copy itself
    similarity: float  # of their sets of runs, Jaccard's


def near_copies(questions: Mapping[str, str], *, least: float) -> list[Near]:
    """Each question with an earlier one that is at least so similar, the most similar of them.

    Texts by their place. What has the same words counts too; a text without words is like no other.
    """
    runs = {place: _runs(text) for place, text in questions.items()}
    buckets: dict[bytes, list[str]] = {}
    found = []
    for place, mine in runs.items():
        bands = _bands(mine)
        proposed = dict.fromkeys(other for band in bands for other in buckets.get(band, ()))
        nearest = max(
            (Near(place, other, _jaccard(mine, runs[other])) for other in proposed),
            key=lambda near: near.similarity,
            default=None,
        )
        if nearest is not None and nearest.similarity >= least:
            found.append(nearest)
        else:
            for band in bands:
                buckets.setdefault(band, []).append(place)
    return found


def _runs(text: str) -> frozenset[int]:
    """Hashes of the runs; of a shorter text, of all of it."""
    words = words_of(text)
    runs = (" ".join(words[i : i + RUN]) for i in range(max(len(words) - RUN, 0) + 1) if words)
    return frozenset(int.from_bytes(hashlib.blake2b(r.encode(), digest_size=8).digest()) for r in runs)


def _jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    return len(one & other) / len(one | other)


def _bands(runs: frozenset[int]) -> list[bytes]:
    if not runs:
        return []
    hashes_R = np.fromiter(runs, dtype=np.uint64, count=len(runs))
    least_H = ((_FACTOR_H[:, None] * hashes_R + _SHIFT_H[:, None]) >> np.uint64(32)).min(axis=1)
    return [bytes([band]) + least_H[band * _ROWS : (band + 1) * _ROWS].tobytes() for band in range(_BANDS)]


_DRAW = np.random.Generator(np.random.PCG64(0))
_FACTOR_H, _SHIFT_H = _DRAW.integers(0, 1 << 64, (2, _BANDS * _ROWS), dtype=np.uint64)
_FACTOR_H |= np.uint64(1)  # multiply and shift (Dietzfelbinger et al. 1997) needs odd factors
