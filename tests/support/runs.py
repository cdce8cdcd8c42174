"""The whole program in processes of its own: started, killed at a chosen instant, looked at afterwards.

Every process that a run starts inherits a mark in its environment, by which those it left behind are found.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from megaent.report.metrics import is_repeatable, read_metrics
from megaent.run.checkpoint import verify

ROOT = Path(__file__).resolve().parents[2]
MARK = "MEGAENT_TEST_MARK"
SHARED = "MEGAENT_TEST_SHARED"
LIMIT_S = 300.0
DYING = ROOT / "tests" / "run" / "dying.py"

# Every size is given, so that another default is not another test. The model has learnt just enough for
# its groups to hold right and wrong responses.
DEMO = (
    "experiment=demo",
    "steps=6",
    "model.warmup_steps=80",
    "model.warmup_batch=16",
    "data.operands_max=3",
    "data.largest=2",
    "rollout.prompts_per_step=4",
    "rollout.group_size=4",
    "rollout.max_new_tokens=24",
    "checkpoint.every=2",
    "evaluate.at_start=false",
    "run.tensorboard=false",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one command ended."""

    code: int
    out: str
    err: str
    seconds: float
    left_behind: tuple[str, ...]  # command lines of processes that it started and that still ran

    def check(self) -> Outcome:
        assert self.code == 0, f"ended with {self.code}\n{self.out[-3000:]}\n{self.err[-6000:]}"
        return self


class Running:
    """A command under way, in a session of its own, so that its whole group can be signalled."""

    def __init__(self, command: list[str], environment: Mapping[str, str], *, folder: Path) -> None:
        self._mark = secrets.token_hex(8)
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            command,
            env={**environment, MARK: self._mark},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_until(self, is_so: Callable[[], bool], *, limit_s: float = LIMIT_S) -> None:
        deadline = time.monotonic() + limit_s
        while not is_so():
            if self._process.poll() is not None or time.monotonic() > deadline:
                outcome = self.finish(limit_s=1)
                raise AssertionError(f"what was awaited never came: {outcome}")
            time.sleep(0.01)

    def signal_group(self, number: signal.Signals) -> None:
        """What a terminal's Ctrl-C does: every process of the group gets it."""
        os.killpg(self._process.pid, number)

    def signal_leader(self, number: signal.Signals) -> None:
        """What ``kill PID`` does."""
        self._process.send_signal(number)

    def signal_descendants(self, number: signal.Signals, *, said: str) -> None:
        """To every process of this command whose command line holds ``said``."""
        for pid, command in _marked(self._mark).items():
            if said in command:
                os.kill(pid, number)

    def pid_of_rank(self, rank: int) -> int:
        """Of the trainer that torchrun started as ``rank``; there is one on this machine."""
        wanted = f"RANK={rank}".encode()
        [pid] = [
            pid
            for pid, command in _marked(self._mark).items()
            if "-m megaent" in command and wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        ]
        return pid

    def descendants(self) -> tuple[str, ...]:
        """Command lines of every process of this command that is still alive."""
        return tuple(_marked(self._mark).values())

    def finish(self, *, limit_s: float = LIMIT_S) -> Outcome:
        """Wait for the end; what runs longer than ``limit_s`` is killed and is a failure."""
        try:
            out, err = self._process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            self.signal_group(signal.SIGKILL)
            out, err = self._process.communicate(timeout=10)
            err += f"\nkilled after {limit_s:g} s by the test"
        seconds = time.monotonic() - self._started
        left = self._left_behind()
        return Outcome(code=self._process.returncode, out=out, err=err, seconds=seconds, left_behind=left)

    def _left_behind(self) -> tuple[str, ...]:
        """A child needs an instant to see its parent's end; what is still there after 5 s stays."""
        deadline = time.monotonic() + 5
        while (found := _marked(self._mark)) and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return tuple(found.values())


def shared_folder() -> Path:
    """What all processes of one session of tests share: warm models, and the run that others are held to."""
    return Path(os.environ[SHARED])


class Program:
    """The ``megaent`` command with one cache folder for the demonstration's models."""

    def __init__(self, folder: Path, *, python: str = sys.executable) -> None:
        self.folder = folder
        self._python = python
        inherited = {name: value for name, value in os.environ.items() if name not in _OF_TORCHRUN}
        self.environment = inherited | {
            "OMP_NUM_THREADS": "1",
            "MEGAENT_CACHE": str(shared_folder() / "cache"),
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "400",
        }

    def start(
        self,
        *words: str,
        program: tuple[str, ...] = ("-m", "megaent"),
        under: tuple[str, ...] = (),
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> Running:
        """``under`` is a command that starts the interpreter; ``environment`` is added to ours."""
        command = [*under, self._python, *program, *words]
        return Running(command, {**self.environment, **environment}, folder=self.folder)

    def run(self, *words: str, environment: Mapping[str, str] = MappingProxyType({})) -> Outcome:
        """``megaent WORDS``, to its end."""
        return self.start(*words, environment=environment).finish()

    def run_dying_at(self, moment: str, *words: str) -> Outcome:
        """``megaent WORDS``, killed at ``moment`` (see tests/run/dying.py)."""
        outcome = self.start(moment, *words, program=(str(DYING),)).finish()
        assert outcome.code == -signal.SIGKILL, f"lived through {moment}: {outcome}"
        return outcome

    def torchrun(self, num_processes: int, *words: str) -> Outcome:
        options = ("--standalone", "--nproc-per-node", str(num_processes), "-m", "megaent")
        return self.start(*options, *words, program=("-m", "torch.distributed.run")).finish()


_OF_TORCHRUN = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}


def _marked(mark: str) -> dict[int, str]:
    """The living processes whose environment holds ``mark``: pid -> command line."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            is_ours = f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
            if is_ours and "\nState:\tZ" not in (folder / "status").read_text():
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(folder.name)] = command.decode(errors="replace")
        except (OSError, ProcessLookupError):
            continue  # it ended while we looked, or is another user's
    return found


# ---------------------------------------------------------------- what a run left


def repeatable(run: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl without what may differ between equal runs."""
    return [
        {name: value for name, value in line.items() if is_repeatable(name)}
        for line in read_metrics(run / "metrics.jsonl")
    ]


def recorded_steps(run: Path) -> int:
    """Of a run that may still be under way."""
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def committed(run: Path) -> list[int]:
    """The steps of the run's checkpoints; each is complete to the bit."""
    folders = sorted((run / "checkpoints").glob("step-*"))
    problems = [problem for folder in folders for problem in verify(folder)]
    assert not problems, problems
    return [int(folder.name.removeprefix("step-")) for folder in folders]


def saved_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Weights and both moments of Adam by their global names, whole, whatever layout wrote them."""
    reader = FileSystemReader(folder / "model")
    entries = reader.read_metadata().state_dict_metadata
    tensors = {
        name: torch.full(tuple(entry.size), torch.nan, dtype=entry.properties.dtype)
        for name, entry in entries.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load(tensors, storage_reader=reader, no_dist=True)
    assert {"exp_avg", "exp_avg_sq"} <= {part for name in tensors for part in name.split(".")}
    return tensors


def saved_optimizer(folder: Path) -> str:
    """What the checkpoint holds of the optimizer besides tensors: step count, learning rates."""
    return repr(torch.load(folder / "model" / "common.pt", weights_only=True)["optimizer"])


def saved_state(folder: Path) -> dict[str, object]:
    state = json.loads((folder / "state.json").read_text())
    del state["seconds"]
    return state


def largest_difference(one: Path, other: Path) -> float:
    """Over every tensor of two checkpoints; 0.0 means equal to the bit."""
    a, b = saved_tensors(one), saved_tensors(other)
    assert a.keys() == b.keys()
    assert all(bool(tensor.isfinite().all()) for tensor in a.values())
    if all(torch.equal(a[name], b[name]) for name in a):
        return 0.0
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def contents(folder: Path) -> dict[str, str]:
    """Every file under ``folder`` by its relative name, with its digest."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
