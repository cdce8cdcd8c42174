"""Programs run side by side by isolated workers; what the sandbox itself fails at is tried again, then told.

An isolation that this machine refuses is an error at the start. Whoever wants to run without it names it in
``without``, and knows then what is given up.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import megaent
from megaent.errors import MissingDependency
from megaent.sandbox.isolation import losses
from megaent.sandbox.limits import Limits
from megaent.sandbox.message import receive, send

TRIES = 3
_START_LIMIT_S = 60.0
_REPLY_MARGIN_S = 10.0  # beyond a program's own limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A program with its input, or with calls (Python expressions) that are made after it has run."""

    source: str
    input: str = ""
    calls: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    code: int = 0  # the exit code, or minus the signal
    output: str = ""
    errors: str = ""  # the end of standard error
    values: str = ""  # a line of JSON for each call that returned
    cpu_s: float = 0.0
    stopped_for: str = ""  # "time" or "output" where a limit ended it
    failure: str = ""  # of the sandbox; then nothing else says anything


class Sandbox:
    """At most ``workers`` workers, started when first needed and kept until ``close``.

    ``preload`` names modules of ours that every program finds loaded. The order of sets is the same in all
    programs and workers.
    """

    def __init__(self, *, workers: int = 2, without: Iterable[str] = (), preload: Iterable[str] = ()) -> None:
        self._num_workers = workers
        self._arguments = (",".join(without), ",".join(preload))
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """One outcome a job, in order. Raises MissingDependency where an isolation is refused."""
        waiting: Queue[tuple[int, Job]] = Queue()
        for place, job in enumerate(jobs):
            waiting.put((place, job))
        outcomes: dict[int, Outcome] = {}
        hands = min(self._num_workers, len(jobs))
        if hands:
            with ThreadPoolExecutor(hands, thread_name_prefix="sandbox") as threads:
                for done in [threads.submit(self._work, waiting, outcomes) for _ in range(hands)]:
                    done.result()
        return [outcomes[place] for place in range(len(jobs))]

    def close(self) -> None:
        with self._lock:
            for worker in self._idle:
                worker.end()
            self._idle.clear()

    def _work(self, waiting: Queue[tuple[int, Job]], outcomes: dict[int, Outcome]) -> None:
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        try:
            while True:
                place, job = waiting.get_nowait()
                worker, outcomes[place] = self._tried(worker, job)
        except Empty:
            if worker is not None:
                with self._lock:
                    self._idle.append(worker)
        except BaseException:
            if worker is not None:
                worker.end()
            raise

    def _tried(self, worker: _Worker | None, job: Job) -> tuple[_Worker | None, Outcome]:
        outcome = Outcome(failure="never tried")
        for _ in range(TRIES):
            worker = worker or _Worker(self._arguments)
            outcome = worker.run(job)
            if not outcome.failure:
                break
            worker.end()
            worker = None
        return worker, outcome


class _Worker:
    """One process that programs are forked from, and our end of the socket to it."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._socket, theirs = socket.socketpair()
        kept = {
            name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LD_LIBRARY_PATH")
        }
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-B", "-m", "megaent.sandbox.worker", *arguments],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={
                    **kept,
                    "PYTHONHASHSEED": "0",
                    "OMP_NUM_THREADS": "1",
                    "PYTHONPATH": str(Path(megaent.__file__).parents[1]),
                },
                start_new_session=True,
            )
        try:
            _require_ready(self._ask(None, _START_LIMIT_S))
        except BaseException:
            self.end()
            raise

    def run(self, job: Job) -> Outcome:
        reply = self._ask(asdict(job), job.limits.wall_s + _REPLY_MARGIN_S)
        if reply is None:
            return Outcome(failure="the worker ended or did not answer")
        outcome = Outcome(**reply)
        if outcome.code == -9 and not outcome.stopped_for:
            # Neither the worker nor the program itself can have sent that signal.
            return Outcome(failure="the machine ended the program: it may be out of memory")
        return outcome

    def _ask(self, message: object, limit_s: float) -> Any:
        self._socket.settimeout(limit_s)
        try:
            if message is not None:
                send(self._socket, message)
            return receive(self._socket)
        except (OSError, ValueError):
            return None

    def end(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()


def _require_ready(reply: Any) -> None:
    if reply is None:
        raise MissingDependency(
            f"a sandbox did not start within {_START_LIMIT_S:g} s; try by hand: "
            f"{sys.executable} -m megaent.sandbox.worker '' '', which must wait for its input"
        )
    if "refused" in reply:
        raise MissingDependency(
            f"this machine does not isolate programs: {reply['refused']}. Allow user namespaces and seccomp ("
            "in a container its own profile must let unshare and mount pass), or name what is given up in "
            f"data.sandbox_without ({losses()})"
        )
