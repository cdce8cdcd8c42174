"""Two readers of one stream: batches padded to their longest sequence, int32, handed on through DLPack.

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
    tokens: Any  # int32 [B, longest], padded; with __dlpack__
    length: np.ndarray  # int64 [B]


class Reader(Protocol):
    def read(self) -> Batch:
        """The next batch of this leader."""
        ...

    @property
    def state(self) -> dict[str, object]:
        """As after the batches that were read."""
        ...

    def restore(self, state: dict[str, object]) -> None: ...


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
    def __init__(self, sets: Sequence[Shards], stream: Stream, *, batch: int, pad: int = 0) -> None:
        self._sets, self._stream, self._batch, self._pad = tuple(sets), stream, batch, pad

    def read(self) -> Batch:
        held = [self._sets[place.source].sequence(place.number) for place in self._stream.take(self._batch)]
        length = np.array([len(sequence) for sequence in held])
        tokens = np.full((len(held), length.max()), self._pad, dtype=np.int32)
        for row, sequence in zip(tokens, held, strict=True):
            row[: len(sequence)] = sequence
        return Batch(tokens, length)

    @property
    def state(self) -> dict[str, object]:
        return self._stream.state

    def restore(self, state: dict[str, object]) -> None:
        self._stream.restore(state)


class DaliReader:
    """The same batches from a DALI pipeline. Raises MissingDependency without DALI (scripts/setup_dali)."""

    def __init__(
        self,
        sets: Sequence[Shards],
        stream: Stream,
        *,
        batch: int,
        pad: int = 0,
        threads: int = 1,
        device: str = "cpu",
    ) -> None:
        self._sets, self._stream, self._batch, self._pad = tuple(sets), stream, batch, pad
        self._threads, self._device = threads, device
        self._pipeline: Any = None
        self._states: list[dict[str, object]] = []  # after each batch that lies ready, oldest first
        self._state = stream.state

    def read(self) -> Batch:
        if self._pipeline is None:
            self._pipeline = self._built()
        tokens, length = self._pipeline.run()
        self._state = self._states.pop(0)
        return Batch(tokens.as_tensor(), np.asarray(length.as_cpu().as_array()).ravel())

    @property
    def state(self) -> dict[str, object]:
        return self._state

    def restore(self, state: dict[str, object]) -> None:
        self._stream.restore(state)
        self._pipeline, self._states, self._state = None, [], self._stream.state

    def _sequences(self) -> list[np.ndarray]:
        places: list[Place] = self._stream.take(self._batch)
        self._states.append(self._stream.state)
        return [np.ascontiguousarray(self._sets[place.source].sequence(place.number)) for place in places]

    def _built(self) -> Any:
        try:
            from nvidia.dali import fn, pipeline_def, types  # type: ignore[import-not-found]
        except ImportError as error:
            raise MissingDependency(
                f"this reader needs NVIDIA DALI ({error}); ./scripts/setup_dali makes an environment of it, "
                "or: pip install nvidia-dali-cuda130"
            ) from error

        where = None if self._device == "cpu" else 0

        @pipeline_def(batch_size=self._batch, num_threads=self._threads, device_id=where)
        def pipeline() -> Any:
            sequences = fn.external_source(source=self._sequences, dtype=types.INT32, ndim=1)
            length = sequences.shape()
            moved = sequences if where is None else sequences.gpu()
            return fn.pad(moved, fill_value=self._pad), length

        built: Any = pipeline()
        built.build()
        return built
