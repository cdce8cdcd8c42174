"""The prompts of a step from shards: the order of ``megaent.shards.stream``, read by one of three readers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock

import numpy as np

from megaent.data.mixture import require_enough
from megaent.data.prompts import Sizes
from megaent.data.shard_writing import number_of, prompt_of
from megaent.shards.files import Shards
from megaent.shards.readers import Batch, DaliReader, MappedReader, Reader
from megaent.shards.stream import Source, Stream
from megaent.types import Prompt

STEPS_KEPT = 64  # that are read on the way to a later one, for whoever asks for them next


def _mapped(sets: Sequence[Part], stream: Stream, batch: int, threads: int) -> Reader:
    return MappedReader(sets, stream, batch=batch)


def _dali(sets: Sequence[Part], stream: Stream, batch: int, threads: int) -> Reader:
    return DaliReader(sets, stream, batch=batch, threads=threads)


READERS: dict[str, Callable[[Sequence[Part], Stream, int, int], Reader]] = {
    "mapped": _mapped,  # by this thread, from files that the kernel keeps as it can
    "memory": _mapped,  # the same, from files that were read whole
    "dali": _dali,
}


class Part:
    """Some sequences of a set, in the order of the files."""

    def __init__(self, shards: Shards, numbers: np.ndarray | None = None) -> None:
        self.shards, self._numbers = shards, numbers

    def __len__(self) -> int:
        return len(self.shards) if self._numbers is None else len(self._numbers)

    def sequence(self, number: int) -> np.ndarray:
        return self.shards.sequence(self._within(number))

    def row(self, number: int) -> bytes:
        return self.shards.row(self._within(number))

    def _within(self, number: int) -> int:
        return number if self._numbers is None else int(self._numbers[number])


class ShardStream:
    """A ``PromptSource`` over sets of shards, mixed by their ``shares``.

    Each prompt of a set once an epoch of it, and none twice within a step. Steps may be asked for by several
    threads. Raises DataError for a set that is too small for that.
    """

    def __init__(
        self,
        sets: Sequence[Shards],
        shares: Sequence[float],
        *,
        per_step: int,
        seed: int,
        window: int,
        reader: str,
        threads: int = 1,
        parts: Sequence[Part] = (),
    ) -> None:
        self._sets, self._shares, self._per_step, self._seed = tuple(sets), tuple(shares), per_step, seed
        self._window, self._reader_name, self._threads = window, reader, threads
        self._parts = tuple(parts) or tuple(Part(shards) for shards in sets)
        self._sources = [
            Source(size=len(part), digest=part.shards.digest, weight=share)
            for part, share in zip(self._parts, shares, strict=True)
        ]
        for part, source in zip(self._parts, self._sources, strict=True):
            require_enough(str(part.shards.folder), source, per_step)
        self._lock = Lock()
        self._reader: Reader | None = None
        self._next = 0  # prompts that the reader has handed out
        self._kept: dict[int, Batch] = {}  # read and not asked for yet, by the prompts before

    @property
    def per_step(self) -> int:
        return self._per_step

    def part(self, ids: Sequence[str] | None, *, sizes: Sizes) -> ShardStream:
        """``sizes`` do not matter: the order does not know of steps."""
        if ids is None:
            chosen = [Part(shards) for shards in self._sets]
        else:
            numbers = np.array([number_of(name) for name in ids], dtype=np.uint64)
            chosen = [Part(shards, np.flatnonzero(np.isin(shards.ids(), numbers))) for shards in self._sets]
        kept = [(part, share) for part, share in zip(chosen, self._shares, strict=True) if len(part)]
        return ShardStream(
            self._sets,
            [share for _, share in kept],
            per_step=self._per_step,
            seed=self._seed,
            window=self._window,
            reader=self._reader_name,
            threads=self._threads,
            parts=[part for part, _ in kept],
        )

    def take(self, before: int, *, leader: int = 0, leaders: int = 1) -> list[tuple[int, Prompt]]:
        with self._lock:
            if self._reader is None:
                self._reader = self._built(leader, leaders)
            batch = self._batch(self._reader, before)
        tokens = np.asarray(batch.tokens)
        return [
            (leader + leaders * i, prompt_of(self._parts[place.source].row(place.number), row[:length]))
            for i, (row, length, place) in enumerate(zip(tokens, batch.length, batch.places, strict=True))
        ]

    def _built(self, leader: int, leaders: int) -> Reader:
        stream = Stream(self._sources, seed=self._seed, window=self._window, leader=leader, leaders=leaders)
        return READERS[self._reader_name](self._parts, stream, self._per_step, self._threads)

    def _batch(self, reader: Reader, before: int) -> Batch:
        """Steps come one after the other, but for those that several threads ask for; else it begins anew."""
        ahead, odd = divmod(before - self._next, self._per_step)
        if before not in self._kept and (odd or not 0 <= ahead < STEPS_KEPT):
            reader.seek(before)
            self._next, self._kept = before, {}
        while before not in self._kept:
            self._kept[self._next] = reader.read()
            self._next += self._per_step
        return self._kept.pop(before)
