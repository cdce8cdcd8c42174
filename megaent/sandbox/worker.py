"""The process that programs are forked from: an interpreter that waits, already isolated.

It is started by ``pool`` with a socket as its standard input and speaks in messages of JSON. It knows
programs and their inputs, and no expected answer. One program runs at a time.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from megaent.sandbox import namespaces, program
from megaent.sandbox.limits import Limits, restrict, restrict_threads
from megaent.sandbox.message import receive, send
from megaent.sandbox.seccomp import compiled

_PRELOADED = (
    "bisect collections copy dataclasses decimal fractions functools heapq itertools json math operator "
    "random re statistics string typing"
)
_NOTHING = {"source": "", "input": "", "calls": (), "limits": {}}
_LOOK_S = 0.05  # between looks at the processor time


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = socket.socket(fileno=os.dup(0))
    given_up = frozenset(filter(None, sys.argv[1].split(",")))
    try:
        before = _isolate(given_up)
    except OSError as error:
        send(parent, {"refused": str(error)})
        return
    for name in (*_PRELOADED.split(), *filter(None, sys.argv[2].split(","))):
        __import__(name)
    program.open_streams()
    gc.freeze()
    has_seccomp = "seccomp" not in given_up
    failure = _outcome(_NOTHING, before, has_seccomp=has_seccomp)["failure"]
    send(parent, {"refused": failure} if failure else {"ready": True})
    while (job := receive(parent)) is not None:
        send(parent, _outcome(job, before, has_seccomp=has_seccomp))


def _isolate(given_up: frozenset[str]) -> Callable[[], None]:
    """Returns what is to be done before each fork."""
    if "namespaces" in given_up:
        return lambda: None
    own = namespaces.enter()
    restrict_threads()
    if "seccomp" not in given_up:
        compiled(process=1)  # what every program is in its own namespace: written once, before the forks
    return lambda: namespaces.renew_processes(own)


@dataclass(slots=True)
class _Pipe:
    limit: int
    ends: tuple[int, int] = field(default_factory=os.pipe)
    received: bytearray = field(default_factory=bytearray)

    @property
    def is_full(self) -> bool:
        return len(self.received) > self.limit

    def read(self) -> bool:
        """False at its end."""
        chunk = os.read(self.ends[0], 65536)
        self.received += chunk
        return bool(chunk)


def _outcome(job: dict[str, Any], before: Callable[[], None], *, has_seccomp: bool) -> dict[str, object]:
    limits = Limits(**job["limits"])
    pipes = [_Pipe(limits.output_bytes) for _ in range(3)] + [_Pipe(1000)]
    given = os.memfd_create("input")
    try:
        os.pwrite(given, job["input"].encode(), 0)
        before()
        started_at = time.monotonic()
        child = os.fork()
        if child == 0:
            handles = [given, *(pipe.ends[1] for pipe in pipes)]
            program.become(
                job["source"], job["calls"], handles, lambda: restrict(limits, has_seccomp=has_seccomp)
            )
        for pipe in pipes:
            os.close(pipe.ends[1])
        why = _watch(child, pipes, started_at + limits.wall_s, limits.cpu_s)
        _, status, usage = os.wait4(child, 0)
    finally:
        os.close(given)
        for pipe in pipes:
            os.close(pipe.ends[0])
    return _told(pipes, why, status, usage.ru_utime + usage.ru_stime)


def _watch(child: int, pipes: list[_Pipe], deadline: float, cpu_s: float) -> str:
    """Until the child has ended, by itself or by our hand; returns our reason, "" for none."""
    handle = os.pidfd_open(child)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(handle, selectors.EVENT_READ)
            for pipe in pipes:
                selector.register(pipe.ends[0], selectors.EVENT_READ, pipe)
            why = _collect(selector, handle, lambda: time.monotonic() > deadline or _cpu_of(child) > cpu_s)
    finally:
        os.close(handle)
    for end in (os.kill, os.killpg):  # its number is ours until it is waited for
        with suppress(ProcessLookupError):
            end(child, signal.SIGKILL)
    return why


def _collect(selector: selectors.BaseSelector, ended: int, is_over: Callable[[], bool]) -> str:
    while not is_over():
        ready = selector.select(_LOOK_S)
        for key, _ in ready:
            if isinstance(key.data, _Pipe):
                if not key.data.read():
                    selector.unregister(key.fd)
                elif key.data.is_full:
                    return "output"
        # Its last words are in the pipes when it has ended, so they are read first.
        if {key.fd for key, _ in ready} == {ended}:
            return ""
    return "time"


def _cpu_of(child: int) -> float:
    """Seconds of processor time, from the clock that every process has (``man 3 clock_getcpuclockid``)."""
    return time.clock_gettime(~child << 3 | 2)


def _told(pipes: list[_Pipe], why: str, status: int, cpu_s: float) -> dict[str, object]:
    output, errors, values, started = (bytes(pipe.received).decode("utf-8", "replace") for pipe in pipes)
    return {
        "failure": "" if started == "\0" else started or "the program's process did not begin",
        "stopped_for": why,
        "code": os.waitstatus_to_exitcode(status),
        "cpu_s": cpu_s,
        "output": output,
        "errors": errors[-1000:],
        "values": values,
    }


if __name__ == "__main__":
    main()
