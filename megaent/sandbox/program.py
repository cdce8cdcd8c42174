"""The process that a program runs in, from the fork on: its pipes, its limits, then the program itself.

Nothing that the process says decides how it is judged: it has the inputs, and what it writes is compared
elsewhere with what it never saw.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import sys
import threading
import types
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from megaent.sandbox.values import plain

VALUES = 3  # the handle that what calls return is written to
STARTED = 4  # closed once the limits stand


def open_streams() -> None:
    """Python's own, over whatever 0 to 2 are when they are first used: called once, before the forks."""
    sys.stdin, sys.stdout, sys.stderr = (_stream(0, "rb"), _stream(1, "wb"), _stream(2, "wb"))
    sys.argv = ["program"]


def _stream(handle: int, mode: str) -> io.TextIOWrapper:
    binary = open(handle, mode, closefd=False)  # noqa: SIM115 - it stays open
    return io.TextIOWrapper(binary, encoding="utf-8", errors="replace")


def become(
    source: str, calls: Sequence[str], handles: Sequence[int], restrict: Callable[[], None]
) -> NoReturn:
    """This process ends here: with the program's exit code, or with what failed told on ``STARTED``.

    ``handles`` become 0 to 4: input, output, errors, values, started.
    """
    try:
        _take(handles)
        os.setsid()
        restrict()
    except BaseException as error:
        os.write(STARTED, repr(error).encode()[:1000])
        os._exit(1)
    os.write(STARTED, b"\0")
    os.close(STARTED)
    os._exit(_run(source, calls))


def _take(handles: Sequence[int]) -> None:
    above = [fcntl.fcntl(handle, fcntl.F_DUPFD, 64) for handle in handles]
    for place, handle in enumerate(above):
        os.dup2(handle, place)
    os.closerange(len(above), 1024)


def _run(source: str, calls: Sequence[str]) -> int:
    try:
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        exec(compile(source, "program", "exec"), module.__dict__)
        _write_values(calls, module.__dict__)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        _tell(error)
        code = 1
    _finish()
    return code & 0xFF


def _write_values(calls: Sequence[str], names: dict[str, Any]) -> None:
    """A line for each call, as soon as it has returned."""
    for call in calls:
        line = json.dumps(plain(eval(compile(call, "call", "eval"), names))) + "\n"
        _write_all(VALUES, line.encode())


def _write_all(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]


def _tell(error: BaseException) -> None:
    try:
        sys.stderr.write(f"\n{type(error).__name__}: {error}")
    except BaseException:
        os.write(2, b"\nan error that cannot be told")


def _finish() -> None:
    try:
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        os._exit(1)
