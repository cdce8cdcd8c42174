"""Processes that compare answers with their keys; a stuck or dead one costs one wrong grade, never the run.

A checker gets ``timeout_s`` seconds of processor time per answer, which the kernel enforces, so that a busy
machine does not change a grade; a multiple of that on the wall clock is enforced from here. Checkers
are fresh interpreters and not forks, because the caller has threads; they end when their input does.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from megaent.errors import MegaentError, MissingDependency

START_LIMIT_S = 120.0
_WALL_FACTOR = 4  # of the processor time, for machines that share their cores
_PROGRAM = Path(__file__).with_name("math_worker.py")


class Verdict(NamedTuple):
    correct: bool
    note: str = ""
    is_failure: bool = False  # the checker ended without a verdict


class CheckerPool:
    """At most ``workers`` checkers, started when first needed and kept until ``close``.

    ``program`` is what a checker runs, with its memory limit and ``arguments``: a file that speaks as
    ``math_worker`` does.
    """

    def __init__(
        self,
        *,
        workers: int,
        timeout_s: float,
        memory_mib: int = 2048,
        program: Path = _PROGRAM,
        arguments: Sequence[str] = (),
    ) -> None:
        self._command = (str(program), str(memory_mib), *arguments)
        self._num_workers = workers
        self._timeout_s = timeout_s
        self._checkers: list[_Checker] = []
        self._lock = threading.Lock()

    def check(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """One verdict per (key, answer), in order."""
        with self._lock:
            try:
                return self._check(pairs)
            except BaseException:
                # A checker in the middle of an answer would reply to the next question with it.
                self._end()
                raise

    def close(self) -> None:
        with self._lock:
            self._end()

    def _check(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        waiting = deque(range(len(pairs)))
        verdicts: dict[int, Verdict] = {}
        while len(verdicts) < len(pairs):
            self._dismiss([checker for checker in self._checkers if not checker.is_of_use])
            # Those that are working already will come back for more.
            while len(self._checkers) < min(self._num_workers, len(pairs) - len(verdicts)):
                self._checkers.append(_Checker(self._command))
            for checker in self._checkers:
                if checker.is_idle and waiting:
                    index = waiting.popleft()
                    checker.give(index, pairs[index], self._timeout_s)
            for checker in _next_to_speak(self._checkers):
                verdicts.update(checker.collect())
        return [verdicts[index] for index in range(len(pairs))]

    def _end(self) -> None:
        self._dismiss(list(self._checkers))

    def _dismiss(self, checkers: Sequence[_Checker]) -> None:
        for checker in checkers:
            checker.kill()
            self._checkers.remove(checker)


class _Checker:
    """One process: starting, idle, busy with one answer, or dead."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        # -P and -B: nothing beside the program can be imported, and nothing is written. A session of
        # its own keeps the terminal's signals away.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-B", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self._received = b""
        self._is_ready = False
        self._is_closed = False
        self._index: int | None = None
        self.deadline: float | None = time.monotonic() + START_LIMIT_S

    @property
    def is_of_use(self) -> bool:
        """False once it has ended; one that ended at work still owes its verdict."""
        return not self._is_closed and (not self.is_idle or self._process.poll() is None)

    @property
    def is_idle(self) -> bool:
        return self._is_ready and self._index is None

    def fileno(self) -> int:
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def give(self, index: int, pair: tuple[str, str], timeout_s: float) -> None:
        self._index = index
        self.deadline = time.monotonic() + _WALL_FACTOR * timeout_s + 2
        job = json.dumps({"key": pair[0], "answer": pair[1], "cpu_s": timeout_s}) + "\n"
        assert self._process.stdin is not None
        try:
            os.write(self._process.stdin.fileno(), job.encode())
        except BrokenPipeError:
            # It died this instant: collect() finds its output at an end and says so.
            return

    def collect(self) -> dict[int, Verdict]:
        """What it has said since, or the verdict on its silence; {} while there is nothing to report."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            self.kill()
            return self._report(Verdict(correct=False, note="timed out", is_failure=True))
        chunk = os.read(self.fileno(), 65536)
        if not chunk:
            return self._report(self._explain_end())
        self._received += chunk
        if not self._received.endswith(b"\n"):
            return {}
        message, self._received = json.loads(self._received), b""
        if "failed" in message:
            raise MissingDependency(
                f"grader math needs math-verify, which cannot be imported: {message['failed']}; add it by: "
                "pip install math-verify"
            )
        if "ready" in message:
            self._is_ready, self.deadline = True, None
            return {}
        if message["last"]:
            self.kill()
        return self._report(Verdict(message["correct"], message["note"], is_failure=message["last"]))

    def kill(self) -> None:
        self._is_closed = True
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _report(self, verdict: Verdict) -> dict[int, Verdict]:
        if not self._is_ready:
            raise MegaentError(
                f"a math checker did not start within {START_LIMIT_S:g} s: {verdict.note}; try "
                f"`{sys.executable} {' '.join(self._command)}` by hand, which must print ready"
            )
        index, self._index, self.deadline = self._index, None, None
        return {} if index is None else {index: verdict}

    def _explain_end(self) -> Verdict:
        code = self._process.wait()
        self.kill()
        if code == -signal.SIGPROF:
            return Verdict(correct=False, note="timed out", is_failure=True)
        how = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
        note = f"the checker was {how}" if code < 0 else f"the checker {how}"
        return Verdict(correct=False, note=note, is_failure=True)


def _next_to_speak(checkers: Sequence[_Checker]) -> list[_Checker]:
    """Waits for output of those that owe some, at most until the first deadline."""
    owing = [checker for checker in checkers if checker.deadline is not None]
    with selectors.DefaultSelector() as selector:
        for checker in owing:
            selector.register(checker, selectors.EVENT_READ, checker)
        limit = min(checker.deadline or 0.0 for checker in owing) - time.monotonic()
        spoken = [key.data for key, _ in selector.select(max(0.0, limit) + 1e-3)]
    now = time.monotonic()
    return spoken or [checker for checker in owing if checker.deadline is not None and checker.deadline < now]
