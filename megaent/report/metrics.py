"""Where the numbers of a run go: one JSON line a step, which is the record, and TensorBoard.

A line is ``{"step": 3, "accuracy/mean": 0.25, ...}``: ``step``, then the names in alphabetical order,
on the disk before the next step begins. Names are ``area/quantity[_statistic]`` and each is explained in
docs/metrics.md. Values are finite; two equal runs write equal lines, names of ``is_repeatable`` false aside.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from megaent.durable import replace_file, sync
from megaent.errors import DataError, MissingDependency, NumericsError

if TYPE_CHECKING:
    from torch import Tensor

_LARGEST = sys.float_info.max
_NAME = re.compile(r"[a-z][a-z0-9_]*(/[a-z0-9_]+)*")


def is_repeatable(name: str) -> bool:
    """Whether two runs of one configuration report the same number under ``name``, to the bit."""
    return not name.startswith(("time/", "memory/")) and "per_s" not in name


class JsonLinesWriter:
    """Appends one line a step to ``path``; a line is complete and on the disk when ``write`` returns."""

    def __init__(self, path: Path) -> None:
        """Open ``path`` for appending; ``truncate_after`` first makes an interrupted file fit for it."""
        records = read_metrics(path) if path.exists() else []
        if path.exists() and not _ends_with_newline(path):
            raise DataError(
                f"{path} ends in the middle of a line; call truncate_after before appending to it"
            )
        self._path = path
        self._last_step = int(records[-1]["step"]) if records else None
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="ascii")
        sync(path.parent)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add the line of ``step``, which must be later than the last one; raises NumericsError for NaN."""
        if self._last_step is not None and step <= self._last_step:
            raise ValueError(
                f"step must be above {self._last_step}, the last one in {self._path}, got {step}; "
                "truncate_after drops the lines of steps that are trained again"
            )
        # Rendered whole before anything is written: a refused step leaves no trace in the file.
        line = render_line(step, metrics)
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._last_step = step

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> JsonLinesWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def render_line(step: int, metrics: Mapping[str, float]) -> str:
    """The line of one step, newline included; floats keep every bit."""
    record: dict[str, float] = {"step": step}
    for name in sorted(metrics):
        record[name] = _finite(name, metrics[name], step=step)
    return json.dumps(record, allow_nan=False) + "\n"


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Every complete line of ``path``, oldest first. A line that a kill cut short at the end is left out."""
    *lines, torn = path.read_bytes().split(b"\n")
    # The newline is written last, so what follows the last one is not a line yet.
    del torn
    return [_parse(line, path=path, number=number) for number, line in enumerate(lines, start=1)]


def read_whole_lines(path: Path) -> tuple[list[dict[str, float]], bool, int]:
    """The lines that are a step's, whether the last line is cut, and how many others are no step's.

    Each step once, its first line, in order. For readers of a file that may be under way or damaged;
    ``read_metrics`` is for those who own it.
    """
    *lines, last = path.read_bytes().split(b"\n")
    found = [_record(line) for line in lines if line.strip()]
    by_step = {record["step"]: record for record in reversed(found) if record is not None}
    return [by_step[step] for step in sorted(by_step)], bool(last.strip()), found.count(None)


def truncate_after(path: Path, step: int) -> list[str]:
    """Leave the lines of steps 1 to ``step``, each once and in order; a sentence for what is lost.

    ``resume`` calls it with the checkpoint's step, so that the steps trained again are recorded once. A line
    that a kill cut short is no loss; a file that something else changed is kept aside as it was.
    """
    data = path.read_bytes() if path.exists() else b""
    found, is_foreign = _salvage(data)
    kept = [record for record in found if record["step"] <= step]
    steps = [record["step"] for record in kept]
    by_step = {record["step"]: record for record in reversed(kept)}
    problems = []
    if is_foreign or steps != sorted(by_step):
        path.with_name(path.name + ".damaged").write_bytes(data)
        problems.append(
            f"{path} was changed by something else: lines that are no step's, a step's second, or out of "
            f"order; put right, and kept as it was in {path.name}.damaged"
        )
    if path.exists() or step:
        replace_file(path, "".join(json.dumps(by_step[known]) + "\n" for known in sorted(by_step)))
    if lacking := [number for number in range(1, step + 1) if number not in by_step]:
        problems.append(f"{path} lacks {step_ranges(lacking)}; what they reported is lost")
    return problems


def step_ranges(steps: Sequence[int]) -> str:
    """``step 2, steps 4 to 7`` of numbers in ascending order."""
    runs: list[list[int]] = []
    for step in steps:
        if runs and step == runs[-1][-1] + 1:
            runs[-1].append(step)
        else:
            runs.append([step])
    return ", ".join(f"steps {run[0]} to {run[-1]}" if len(run) > 1 else f"step {run[0]}" for run in runs)


def _salvage(data: bytes) -> tuple[list[dict[str, float]], bool]:
    """The lines that are a step's, and whether there are others; blank and torn last ones do not count."""
    *lines, last = data.split(b"\n")
    found = [_record(line) for line in lines if line.strip()]
    is_foreign = None in found
    return [record for record in (*found, _record(last)) if record is not None], is_foreign


def _record(line: bytes) -> dict[str, float] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    is_whole = isinstance(record, dict) and type(record.get("step")) is int and record["step"] > 0
    # Compared, not converted: an integer may be too large for a float.
    if not is_whole or not all(type(v) in (int, float) and abs(v) <= _LARGEST for v in record.values()):
        return None
    return record


class TensorBoardWriter:
    """The same numbers for TensorBoard, and distributions of what has one value a token."""

    def __init__(self, folder: Path, *, first_step: int = 0) -> None:
        """Events at ``first_step`` and later, left behind by an interrupted run, are hidden."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingDependency(
                "TensorBoard is missing; run `pip install 'megaent[train]'` or set run.tensorboard=false"
            ) from error
        self._others = threading.excepthook
        threading.excepthook = self._hear
        self._writer = SummaryWriter(str(folder), purge_step=first_step or None)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        for name in sorted(metrics):
            self._writer.add_scalar(name, _finite(name, metrics[name], step=step), step)
        self._writer.flush()

    def write_histogram(self, step: int, name: str, *, counts_B: Tensor, edges_B1: Tensor) -> None:
        """A distribution, such as the entropy of tokens: the counts of B bins and their B + 1 borders.

        Its sums are those of the bins' middles. An empty distribution is not written.
        """
        if edges_B1.shape != (counts_B.numel() + 1,):
            raise ValueError(
                f"edges_B1 must have shape [{counts_B.numel() + 1}], one more than the bins, "
                f"got {list(edges_B1.shape)}"
            )
        counts_B, edges_B1 = counts_B.detach().double().cpu(), edges_B1.detach().double().cpu()
        filled = counts_B.nonzero().flatten().tolist()
        if not filled:
            return
        middle_B = (edges_B1[1:] + edges_B1[:-1]) / 2
        self._writer.add_histogram_raw(
            name,
            min=float(edges_B1[filled[0]]),
            max=float(edges_B1[filled[-1] + 1]),
            num=float(counts_B.sum()),
            sum=float(counts_B @ middle_B),
            sum_squares=float(counts_B @ middle_B.square()),
            bucket_limits=edges_B1[1:].tolist(),
            bucket_counts=counts_B.tolist(),
            global_step=step,
        )
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
        threading.excepthook = self._others

    def _hear(self, failure: threading.ExceptHookArgs) -> None:
        """What fails in TensorBoard's thread is raised again by the next call: no traceback meanwhile."""
        if not type(failure.thread).__module__.startswith("tensorboard."):
            self._others(failure)


def _finite(name: str, value: float, *, step: int) -> float:
    if name == "step" or not _NAME.fullmatch(name):
        raise ValueError(
            f"a metric's name must read area/quantity in lower case and not be step, got {name!r}"
        )
    number = value if type(value) is int else float(value)  # a bool becomes 1.0 or 0.0
    if not math.isfinite(number):
        raise NumericsError(
            f"metric {name} must be finite, got {number} at step {step}; nothing of this step was written. "
            "Lower optim.lr, or look at responses.md of the steps before for an empty or extreme batch"
        )
    return number


def _parse(line: bytes, *, path: Path, number: int) -> dict[str, float]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        raise DataError(
            f"{path}, line {number}: expected a JSON object with an integer step, got {line[:60]!r}; "
            "the file was changed by something else, restore it or start a new run"
        )
    return record


def _ends_with_newline(path: Path) -> bool:
    data = path.read_bytes()
    return not data or data.endswith(b"\n")
