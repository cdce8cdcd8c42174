"""One point of a sweep: started or resumed in a process of its own, listened to, and its outcome written.

The process is in a session of its own, so that a terminal's Ctrl-C reaches the sweep alone, which passes
each signal on once: the first lets a step end and saves it, the second leaves at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from megaent.config.overrides import quoted
from megaent.lifetime import tied_to_this_process
from megaent.report.sweep_record import (
    FAILED,
    FINISHED,
    OUTCOME,
    OUTPUT,
    STOPPED,
    Outcome,
    read_sweep,
    write_outcome,
)
from megaent.run.command_record import COMMAND

STOPS = ".stops"
"""File of a sweep that was asked to stop: a byte for every signal, in order."""

_LOOK_EVERY_S = 0.1
_STOPPED_CODES = (10, 128 + signal.SIGINT, 128 + signal.SIGTERM)


@dataclass(frozen=True, slots=True, kw_only=True)
class PointJob:
    """What Hydra's launcher calls for each point, in the sweep's process or in one of the launcher's own."""

    sweep: Path
    owner: int  # the sweep's process

    def __call__(self, composed: DictConfig) -> None:
        job = HydraConfig.get()
        folder = Path(job.runtime.output_dir)
        if os.getpid() != self.owner:
            # A terminal sends its signals to launchers' processes as well; they hear of them from the sweep.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if not stops(self.sweep):
            [name] = [point.name for point in read_sweep(self.sweep).points if point.folder == folder.name]
            run_point(folder, name, list(job.overrides.task), sweep=self.sweep)


def stops(sweep: Path) -> bytes:
    """The signals that the sweep got."""
    try:
        return (sweep / STOPS).read_bytes()
    except FileNotFoundError:
        return b""


def run_point(folder: Path, name: str, words: list[str], *, sweep: Path) -> None:
    """To its end, whatever that is. ``words`` start it; one that began before is resumed."""
    (folder / OUTCOME).unlink(missing_ok=True)
    is_new = not (folder / COMMAND).exists()
    until = [word for word in words if word.startswith("run.until=")] or ["run.until=null"]
    resumed = ["resume", str(folder), *until]
    command = ["train", *words, f"run.dir={quoted(str(folder))}"] if is_new else resumed
    started = time.monotonic()
    last = _LastWords(folder / OUTPUT, name)
    try:
        process = _start(command)
    except OSError as error:
        write_outcome(folder, Outcome(state=FAILED, exit_code=1, message=str(error)))
        return
    listener = threading.Thread(target=last.listen, args=(process,), daemon=True)
    listener.start()
    code = _wait(process, sweep)
    # A grandchild may hold the pipe open; what the run itself said is read by then.
    listener.join(timeout=5)
    seconds = round(time.monotonic() - started, 1)
    write_outcome(folder, Outcome(state=_state(code), exit_code=code, message=last.of(code), seconds=seconds))


def _start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "megaent", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | tied_to_this_process() | {"PYTHONUNBUFFERED": "1", "COLUMNS": "200"},
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )


def _wait(process: subprocess.Popen[str], sweep: Path) -> int:
    """Its exit code; signals that the sweep gets meanwhile are passed on."""
    passed_on = 0
    while (code := process.poll()) is None:
        # One a turn: two of a kind at once would arrive as one.
        for number in stops(sweep)[passed_on : passed_on + 1]:
            process.send_signal(number)
            passed_on += 1
        time.sleep(_LOOK_EVERY_S)
    return code


def _state(code: int) -> str:
    if code == 0:
        return FINISHED
    return STOPPED if code in _STOPPED_CODES else FAILED


class _LastWords:
    """Passes on what a run says, a name before every line, keeps it in a file, and remembers the end."""

    def __init__(self, file: Path, name: str) -> None:
        self._file, self._name = file, name
        self._error = self._last = ""

    def listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with self._file.open("a", encoding="utf-8") as kept:
            for line in process.stdout:
                kept.write(line)
                kept.flush()
                print(f"[{self._name}] {line}", end="", flush=True)
                self._last = line.strip() or self._last
                self._error = line.strip() if line.startswith("megaent") else self._error

    def of(self, code: int) -> str:
        """The message that the run ended with, in one line; "" when it succeeded."""
        if code == 0:
            return ""
        if code < 0:
            return f"ended by {signal.Signals(-code).name}; the last it said: {self._last}"
        return self._error.partition(": ")[2] or self._last
