"""New weights into SGLang servers: whole or changed tensors, bucket by bucket, checked when they are there.

    probe, pause -> begin -> buckets -> end, flush -> check -> version -> resume

A server is written while it generates nothing. What fails on the way loses the server and not the update;
the update fails when no server is left.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from megaent.errors import EngineError
from megaent.rollout.sglang.control import Control, PauseMode
from megaent.sync.background import in_background
from megaent.sync.buckets import Bucket, Bucketer, cast
from megaent.sync.checksums import Checksums
from megaent.sync.delta import Delta
from megaent.sync.session import INCOMPLETE, Session
from megaent.sync.verify import WeightCheck
from megaent.types import Metrics


class Transport(Protocol):
    """How buckets reach servers. Whoever fails to take one is lost with ``session.lose``."""

    needs_update_session: bool  # servers that have begin_weight_update take buckets only after it

    def connect(self, session: Session, *, changed: frozenset[str]) -> None:
        """Be ready to send to the living servers; those of ``changed`` may have been restarted."""
        ...

    def send(self, bucket: Bucket, session: Session) -> None:
        """Return when ``bucket`` may be written over."""
        ...

    def finish(self, session: Session) -> None:
        """Every bucket was sent: have it in use in the living servers."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncReport:
    """What one publication moved. ``failed`` names the servers that must not be used until the next one."""

    version: int
    num_bytes: int  # to each server
    num_tensors: int
    num_skipped: int  # tensors that had not changed
    seconds: float
    failed: Mapping[str, str]  # server -> why

    @property
    def gb_per_s(self) -> float:
        """1e9 bytes a second, the pauses and checks included."""
        return self.num_bytes / 1e9 / self.seconds

    def metrics(self) -> Metrics:
        """Under the names of docs/metrics.md."""
        return {
            "sync/bytes": float(self.num_bytes),
            "sync/gb_per_s": self.gb_per_s,
            "sync/tensors": float(self.num_tensors),
            "sync/tensors_skipped": float(self.num_skipped),
            "sync/servers_failed": float(len(self.failed)),
        }


@dataclass(slots=True)
class _Moved:
    num_bytes: int = 0
    num_tensors: int = 0
    checksums: Checksums | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderOptions:
    """How weights are published. ``dtype`` and ``device`` are those of the servers."""

    dtype: torch.dtype  # weights are cast to it before they travel
    device: str  # "cpu" | "cuda"; decides which checksums a server answers with
    pause: PauseMode = "retract"
    bucket_bytes: int = 256 * 2**20
    only_changed: bool = False
    check_every: int = 1  # publications between checks of what arrived; 0 never


class ServerSender:
    """Publishes to the servers it is given each time, and remembers which of them hold what.

    Everybody gets everything unless each says to hold what it was last sent: a server that was restarted,
    that failed the last time, or that another trainer has written says otherwise.
    """

    def __init__(self, control: Control, transport: Transport, options: SenderOptions) -> None:
        self._control = control
        self._transport = transport
        self._options = options
        self._bucketer = Bucketer(options.bucket_bytes)
        self._delta = Delta() if options.only_changed else None
        self._held: dict[str, str] = {}  # server -> the version it holds whole, as it names it
        self._with_sessions: set[str] = set()  # servers that have begin_weight_update and its end
        self._num_published = 0

    def send(
        self, named_tensors: Iterable[tuple[str, Tensor]], version: int, *, servers: Sequence[str]
    ) -> SyncReport:
        """Every weight of ``version`` into every server of ``servers`` that can be reached.

        The stream is read to its end whatever happens, because other ranks have a part in producing it.
        Raises EngineError when no server took the weights, NumericsError when one holds others than it was
        sent.
        """
        stream = iter(named_tensors)
        try:
            return self._publish(stream, version, servers)
        finally:
            for _ in stream:
                pass

    def close(self) -> None:
        self._transport.close()

    # ------------------------------------------------------------ one publication

    def _publish(
        self, stream: Iterator[tuple[str, Tensor]], version: int, servers: Sequence[str]
    ) -> SyncReport:
        started = time.perf_counter()
        session = Session(self._control, servers)
        paused = in_background(session.pause, self._options.pause)
        changed = self._find_changed(session)
        opened = in_background(self._open, session, changed, paused)
        moved = self._move(stream, session, opened)
        self._close(session)
        if moved.checksums is not None:
            session.each(WeightCheck(self._control, moved.checksums))
        self._settle(session, version)
        return SyncReport(
            version=version,
            num_bytes=moved.num_bytes,
            num_tensors=moved.num_tensors,
            num_skipped=self._delta.num_skipped if self._delta is not None else 0,
            seconds=time.perf_counter() - started,
            failed=session.failed,
        )

    def _find_changed(self, session: Session) -> frozenset[str]:
        """The servers that do not hold what they were last sent; one that does not answer is lost."""
        found = session.each(self._control.model_info)
        changed = frozenset(url for url, info in found.items() if self._held.get(url) != info.weight_version)
        for url, able in session.each(self._control.capabilities, changed).items():
            (self._with_sessions.add if able.has_update_session else self._with_sessions.discard)(url)
        if changed and self._delta is not None:
            self._delta.forget()
        return changed

    def _open(self, session: Session, changed: frozenset[str], paused: Future[None]) -> None:
        """Have every server ready for the first bucket."""
        paused.result()
        named = in_background(session.name, INCOMPLETE)
        session.begin(self._sessions)
        named.result()
        self._transport.connect(session, changed=changed)

    def _close(self, session: Session) -> None:
        """Everything sent is in use, and nothing that old weights computed is left."""
        self._transport.finish(session)
        ended = in_background(session.end, self._sessions)
        if self._options.pause != "in_place":
            session.flush()
        ended.result()

    @property
    def _sessions(self) -> Container[str]:
        """The servers that have to be told where an update begins and ends."""
        return self._with_sessions if self._transport.needs_update_session else ()

    def _move(self, stream: Iterable[tuple[str, Tensor]], session: Session, opened: Future[None]) -> _Moved:
        """One bucket is filled while the one before it is on its way, the first while servers are opened."""
        every = self._options.check_every
        moved = _Moved()
        stream = cast(stream, self._options.dtype)
        if every and self._num_published % every == 0:
            moved.checksums = Checksums(self._options.device)
            stream = moved.checksums.watch(stream)
        if self._delta is not None:
            stream = self._delta.changed(stream)
        under_way = opened
        for bucket in self._bucketer(stream):
            under_way.result()
            if not session.alive:
                break
            under_way = in_background(self._transport.send, bucket, session)
            moved.num_bytes += bucket.num_bytes
            moved.num_tensors += len(bucket.specs)
        under_way.result()
        return moved

    def _settle(self, session: Session, version: int) -> None:
        """The servers go on, with the new version's name; from here on they are known to hold it."""
        if self._delta is not None and session.alive:
            self._delta.commit()
        session.name(str(version))
        session.resume()
        if not session.alive:
            reasons = "; ".join(session.failed.values()) or "there is none"
            raise EngineError(f"no server took the weights of version {version}: {reasons}")
        self._held = dict.fromkeys(session.alive, str(version))
        self._num_published += 1
