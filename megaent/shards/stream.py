"""Which sequence comes when: a function of seed, window and place, the same for every reader and any leaders.

The sequences of a set are cut into windows of ``window`` in the order of the files. An epoch takes the
windows in an order drawn anew, and within each its sequences in an order drawn anew; what is left over makes
a shorter window that comes last. So a reader touches one window's pages at a time, and what comes after any
number of sequences can be computed. What was among the last of an epoch is put off at the beginning of the
next, so that none comes twice within ``Source.apart`` places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from megaent.errors import DataError
from megaent.randomness import draw_seed

APART = 4096  # places within which no sequence comes twice, where a source has three times as many


class Place(NamedTuple):
    source: int
    number: int  # of the sequence in its source


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    size: int  # sequences
    digest: str
    weight: float = 1.0

    @property
    def apart(self) -> int:
        """Places within which none of its sequences comes twice."""
        return min(self.size // 3, APART)


class Stream:
    """Endless places; of each ``leaders`` in a row leader r takes the r-th.

    A mixture takes at every place the source that is furthest behind its share, so after n places each of two
    sources has given its share of n, but for one. ``state`` is all that a checkpoint needs, on any number of
    leaders.
    """

    def __init__(
        self, sources: Sequence[Source], *, seed: int, window: int, leader: int = 0, leaders: int = 1
    ) -> None:
        if window < 1 or not 0 <= leader < leaders or not sources:
            raise DataError(
                f"a stream needs sources, a window of 1 or more and a leader below {leaders}, got "
                f"{len(sources)} sources, window {window}, leader {leader}"
            )
        if any(source.weight <= 0 or not source.size for source in sources):
            raise DataError("each source of a mixture needs sequences and a weight above 0; leave others out")
        self._sources, self._seed, self._window = tuple(sources), seed, window
        self.leader, self.leaders = leader, leaders
        self._shares = [source.weight / sum(s.weight for s in sources) for source in sources]
        self._given = [0] * len(sources)
        self._windows = lru_cache(maxsize=2 * len(sources))(self._drawn_windows)
        self._inside = lru_cache(maxsize=2 * len(sources))(self._drawn_inside)
        self._begin = lru_cache(maxsize=2 * len(sources))(self._beginning)

    def take(self, count: int) -> list[Place]:
        """Of the next ``count`` places those of this leader, as if nothing before them were shared out."""
        places = [self._next() for _ in range(count)]
        return places[self.leader :: self.leaders]

    def seek(self, asked: int) -> None:
        """Go on after the first ``asked`` places."""
        if asked < sum(self._given):
            self._given = [0] * len(self._sources)
        for _ in range(asked - sum(self._given)):
            self._given[self._furthest_behind()] += 1

    @property
    def state(self) -> dict[str, object]:
        return {"given": list(self._given), "of": self._identity()}

    def restore(self, state: dict[str, object]) -> None:
        """Raises DataError for the state of another stream: other shards, weights, seed or window."""
        if state["of"] != self._identity():
            raise DataError(
                "the state is of other shards, weights, seed or window; give those it was saved with, or "
                f"begin anew (saved {state['of']!r:.200}, now {self._identity()!r:.200})"
            )
        self._given = [int(given) for given in state["given"]]  # type: ignore[union-attr]

    def _identity(self) -> list[object]:
        told: list[object] = [[source.digest, source.size, source.weight] for source in self._sources]
        return [*told, self._seed, self._window]

    def _next(self) -> Place:
        source = self._furthest_behind()
        number = self._at(source, self._given[source])
        self._given[source] += 1
        return Place(source, number)

    def _furthest_behind(self) -> int:
        total = sum(self._given) + 1
        behind = [share * total - given for share, given in zip(self._shares, self._given, strict=True)]
        return max(range(len(behind)), key=behind.__getitem__)

    def _at(self, source: int, given: int) -> int:
        epoch, place = divmod(given, self._sources[source].size)
        if epoch and place < 2 * self._sources[source].apart:
            return self._begin(source, epoch)[place]
        return self._shuffled(source, epoch, place)

    def _beginning(self, source: int, epoch: int) -> list[int]:
        """The first places of an epoch, those last that are among the last of the epoch before."""
        size, apart = self._sources[source].size, self._sources[source].apart
        held = {self._shuffled(source, epoch - 1, place) for place in range(size - apart, size)}
        begin = [self._shuffled(source, epoch, place) for place in range(2 * apart)]
        return sorted(begin, key=lambda number: number in held)

    def _shuffled(self, source: int, epoch: int, place: int) -> int:
        turn, inside = divmod(place, self._window)
        window = self._windows(source, epoch)[turn]
        return int(window * self._window + self._inside(source, epoch, int(window))[inside])

    def _drawn_windows(self, source: int, epoch: int) -> np.ndarray:
        whole, rest = divmod(self._sources[source].size, self._window)
        order = self._permutation(whole, "windows", source, epoch)
        return np.append(order, whole) if rest else order

    def _drawn_inside(self, source: int, epoch: int, window: int) -> np.ndarray:
        size = min(self._window, self._sources[source].size - window * self._window)
        return self._permutation(size, "inside", source, epoch, window)

    def _permutation(self, size: int, *of: int | str) -> np.ndarray:
        return np.random.Generator(np.random.PCG64(draw_seed(self._seed, "shards", *of))).permutation(size)
