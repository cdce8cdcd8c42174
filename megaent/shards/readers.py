"""Two readers of one stream: batches padded to their longest sequence, or packed, handed on through DLPack.

``MappedReader`` copies from the mapped files in this thread. ``DaliReader`` lets NVIDIA DALI do it, in
``threads`` of its own and ahead of its use, on the CPU or to the card. Order and checkpoints are the stream's
in both: a state counts what was handed out, never what lies ready inside a pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from megaent.errors import DataError, MissingDependency
from megaent.shards.files import Shards
from megaent.shards.stream import Place, Source, Stream


class Batch(NamedTuple):
    tokens: Any  # int32 [B, longest], padded; packed [sum of length]; with __dlpack__
    length: np.ndarray  # int64 [B]
    places: list[Place]  # [B]


class Sequences(Protocol):
    """A set of shards, or a part of one."""

    def sequence(self, number: int) -> np.ndarray:
        """int32 [length]"""
        ...


class Reader(Protocol):
    def read(self) -> Batch:
        """The next batch of this leader."""
        ...

    @property
    def state(self) -> dict[str, object]:
        """As after the batches that were read."""
        ...

    def restore(self, state: dict[str, object]) -> None: ...

    def seek(self, asked: int) -> None:
        """Go on after the first ``asked`` sequences of all leaders."""
        ...


def stream_over(
    sets: Sequence[Shards],
    *,
    seed: int,
    window: int,
    weights: Sequence[float] = (),
    leader: int = 0,
    leaders: int = 1,
) -> Stream:
    """A stream over sets of shards, by ``weights``, or by their sizes where none are given."""
    given = weights or [len(shards) for shards in sets]
    if len(given) != len(sets):
        raise DataError(f"{len(sets)} sets of shards need as many weights, got {len(given)}")
    sources = [
        Source(size=len(shards), digest=shards.digest, weight=float(weight))
        for shards, weight in zip(sets, given, strict=True)
    ]
    return Stream(sources, seed=seed, window=window, leader=leader, leaders=leaders)


class MappedReader:
    """``batch`` counts the sequences of all leaders together; of each in a row this one reads its share."""

    def __init__(
        self, sets: Sequence[Sequences], stream: Stream, *, batch: int, pad: int = 0, packed: bool = False
    ) -> None:
        self._sets, self._stream, self._batch, self._pad = tuple(sets), stream, batch, pad
        self._packed = packed

    def read(self) -> Batch:
        places = self._stream.take(self._batch)
        held = [self._sets[place.source].sequence(place.number) for place in places]
        length = np.array([len(sequence) for sequence in held], dtype=np.int64)
        return Batch(_joined(held) if self._packed else self._padded(held, length), length, places)

    @property
    def state(self) -> dict[str, object]:
        return self._stream.state

    def restore(self, state: dict[str, object]) -> None:
        self._stream.restore(state)

    def seek(self, asked: int) -> None:
        self._stream.seek(asked)

    def _padded(self, held: Sequence[np.ndarray], length: np.ndarray) -> np.ndarray:
        tokens = np.full((len(held), max(length, default=0)), self._pad, dtype=np.int32)
        for row, sequence in zip(tokens, held, strict=True):
            row[: len(sequence)] = sequence
        return tokens


class DaliReader:
    """The same batches from a DALI pipeline. Raises MissingDependency without DALI (scripts/setup_dali)."""

    def __init__(
        self,
        sets: Sequence[Sequences],
        stream: Stream,
        *,
        batch: int,
        pad: int = 0,
        packed: bool = False,
        threads: int = 1,
        device: str = "cpu",
    ) -> None:
        if batch <= stream.leader:
            raise DataError(
                f"of {batch} sequences at a time leader {stream.leader} gets none, and DALI knows no empty "
                "batch; read more at a time, or by another reader"
            )
        self._sets, self._stream, self._batch, self._pad = tuple(sets), stream, batch, pad
        self._packed, self._threads, self._device = packed, threads, device
        self._pipeline: Any = None
        self._ready: list[_Ready] = []  # what lies in the pipeline, oldest first
        self._state = stream.state

    def read(self) -> Batch:
        if self._pipeline is None:
            self._pipeline = self._built()
        (tokens,) = self._pipeline.run()
        ready = self._ready.pop(0)
        self._state = ready.state
        return Batch(tokens[0] if self._packed else tokens.as_tensor(), ready.length, ready.places)

    @property
    def state(self) -> dict[str, object]:
        return self._state

    def restore(self, state: dict[str, object]) -> None:
        self._stream.restore(state)
        self._empty()

    def seek(self, asked: int) -> None:
        self._stream.seek(asked)
        self._empty()

    def _empty(self) -> None:
        self._pipeline, self._ready, self._state = None, [], self._stream.state

    def _sequences(self) -> list[np.ndarray]:
        """What DALI takes next: a sample a sequence, or one of all of them."""
        places = self._stream.take(self._batch)
        held = [np.ascontiguousarray(self._sets[place.source].sequence(place.number)) for place in places]
        length = np.array([len(sequence) for sequence in held], dtype=np.int64)
        self._ready.append(_Ready(self._stream.state, length, places))
        return [_joined(held)] if self._packed else held

    def _built(self) -> Any:
        try:
            from nvidia.dali import fn, pipeline_def, types  # type: ignore[import-not-found]
        except ImportError as error:
            raise MissingDependency(
                f"this reader needs NVIDIA DALI ({error}); ./scripts/setup_dali makes an environment of it, "
                "or: pip install nvidia-dali-cuda130"
            ) from error

        where = None if self._device == "cpu" else 0
        samples = 1 if self._packed else -(-self._batch // self._stream.leaders)

        @pipeline_def(batch_size=samples, num_threads=self._threads, device_id=where)
        def pipeline() -> Any:
            sequences = fn.external_source(source=self._sequences, dtype=types.INT32, ndim=1)
            moved = sequences if where is None else sequences.gpu()
            return moved if self._packed else fn.pad(moved, fill_value=self._pad)

        built: Any = pipeline()
        built.build()
        return built


class _Ready(NamedTuple):
    state: dict[str, object]
    length: np.ndarray
    places: list[Place]


def _joined(held: Sequence[np.ndarray]) -> np.ndarray:
    """int32 [all tokens]; a copy, as DALI asks for memory that may be written."""
    return np.concatenate([*held, np.empty(0, np.int32)])
