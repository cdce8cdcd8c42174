"""A run's directory as a reader finds it: whole, still being written, cut, or damaged.

Nothing here raises for a damaged file: what cannot be read is left out, and ``notes`` says so.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import fmean

import yaml

from megaent.errors import DataError
from megaent.report.metrics import read_whole_lines, step_ranges

LAST_SHARE = 0.1
"""Share of the steps, at the end, over which a run without a last evaluation is judged."""

_MARKS = ("command.json", "metrics.jsonl", "config.yaml")
_CHECKPOINT = re.compile(r"step-(\d{8,})")
_MOST_RESPONSES = 40_000  # characters
_MOST_LACKING = 10_000  # steps that are named


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    step: int
    num_bytes: int
    folder: str


@dataclass(slots=True, kw_only=True)
class RunFiles:
    """What the files of one run say."""

    path: Path
    metrics: list[dict[str, float]] = field(default_factory=list)
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    method: str = ""
    config: dict[str, str] = field(default_factory=dict)  # {"optim.lr": "0.0006", …}
    overrides: list[str] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    responses: str = ""  # of the last step that kept some, as they stand in responses.md
    written: datetime | None = None  # when metrics.jsonl last grew
    notes: list[str] = field(default_factory=list)

    @property
    def steps(self) -> int:
        return int(self.metrics[-1]["step"]) if self.metrics else 0

    @property
    def planned(self) -> int | None:
        steps = self.config.get("steps", "")
        return int(steps) if steps.isdigit() else None

    @property
    def is_finished(self) -> bool:
        return self.planned is not None and self.steps >= self.planned


def is_run(path: Path) -> bool:
    return any((path / name).is_file() for name in _MARKS)


def read_run(path: Path) -> RunFiles:
    """Raises DataError for a directory that is no run's; everything else becomes a note."""
    if not path.is_dir():
        raise DataError(f"{path} is no directory; give the directory of a run or of a sweep")
    if not is_run(path):
        raise DataError(f"{path} holds no run: none of {', '.join(_MARKS)} is there")
    run = RunFiles(path=path)
    _read_metrics(run)
    _read_summary(run)
    run.method = _text(run, "method.txt")
    run.config = _read_config(run)
    run.overrides = _read_overrides(run)
    run.checkpoints = _checkpoints(path / "checkpoints")
    run.responses = _last_section(_tail(path / "responses.md"))
    return run


def last_numbers(run: RunFiles) -> dict[str, float]:
    """``accuracy``, ``length`` and ``entropy`` of the evaluation after the last step; {} without one."""
    keys = {"accuracy": "accuracy", "length": "mean_length", "entropy": "mean_entropy"}
    return {name: run.after[key] for name, key in keys.items() if key in run.after}


def last_steps(run: RunFiles, *, of: int | None = None) -> dict[str, float]:
    """The same as training saw them: means over the last tenth of the steps, or of the first ``of``."""
    steps = run.metrics[:of]
    count = max(1, math.ceil(len(steps) * LAST_SHARE))
    last = steps[-count:]
    means = {}
    for name in ("accuracy", "length", "entropy"):
        values = [line[f"{name}/mean"] for line in last if f"{name}/mean" in line]
        if values:
            means[name] = fmean(values)
    return means


def column(run: RunFiles, name: str) -> tuple[list[float], list[float]]:
    """Steps and values of one metric, where it was reported."""
    points = [(line["step"], line[name]) for line in run.metrics if name in line]
    return [step for step, _ in points], [value for _, value in points]


# ---------------------------------------------------------------- file by file


def _read_metrics(run: RunFiles) -> None:
    file = run.path / "metrics.jsonl"
    if not file.is_file():
        run.notes.append("There is no metrics.jsonl yet: no step has ended.")
        return
    run.metrics, is_torn, num_foreign = read_whole_lines(file)
    run.written = datetime.fromtimestamp(file.stat().st_mtime)
    if is_torn:
        run.notes.append("The last line of metrics.jsonl is cut and left out: a step was being written.")
    if num_foreign:
        run.notes.append(f"Lines of metrics.jsonl that are no step's and are left out: {num_foreign}.")
    if not run.metrics:
        run.notes.append("metrics.jsonl holds no finished step.")
    num_lacking = run.steps - len(run.metrics)
    if 0 < num_lacking <= _MOST_LACKING:
        known = {line["step"] for line in run.metrics}
        lacking = [step for step in range(1, run.steps + 1) if step not in known]
        run.notes.append(f"metrics.jsonl lacks {step_ranges(lacking)}.")
    elif num_lacking:
        run.notes.append(f"metrics.jsonl lacks {num_lacking} of {run.steps} steps.")


def _read_summary(run: RunFiles) -> None:
    file = run.path / "summary.json"
    try:
        record = json.loads(file.read_bytes())
        run.before, run.after = _numbers(record["before"]), _numbers(record["after"])
        run.seconds = float(record["seconds"])
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        run.notes.append(f"summary.json cannot be read and is left out: {_short(error)}.")


def _numbers(record: Mapping[str, object]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in record.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def _read_config(run: RunFiles) -> dict[str, str]:
    text = _text(run, "config.yaml")
    try:
        return _flat(yaml.safe_load(text)) if text else {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        run.notes.append(f"config.yaml cannot be read and is left out: {_short(error)}.")
        return {}


def _flat(node: object, prefix: str = "") -> dict[str, str]:
    """A nested configuration as ``{"optim.lr": "1e-06", …}``."""
    if not isinstance(node, dict) or not node:
        shown = node if isinstance(node, str) else json.dumps(node, default=str, ensure_ascii=False)
        return {prefix: shown} if prefix else {}
    below = [_flat(value, f"{prefix}.{name}" if prefix else str(name)) for name, value in node.items()]
    return {key: value for part in below for key, value in part.items()}


def _read_overrides(run: RunFiles) -> list[str]:
    text = _text(run, "command.json")
    try:
        return [str(word) for word in json.loads(text)["overrides"]] if text else []
    except (ValueError, KeyError, TypeError) as error:
        run.notes.append(f"command.json cannot be read and is left out: {_short(error)}.")
        return []


def _text(run: RunFiles, name: str) -> str:
    """A small file; "" where it is not there."""
    try:
        return (run.path / name).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        run.notes.append(f"{name} cannot be read and is left out: {_short(error)}.")
        return ""


def _checkpoints(folder: Path) -> list[Checkpoint]:
    found = []
    for path in sorted(folder.glob("step-*")):
        match = _CHECKPOINT.fullmatch(path.name)
        if match and (path / "manifest.json").is_file():
            found.append(Checkpoint(step=int(match.group(1)), num_bytes=_size(path), folder=path.name))
    return found


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue  # rotated away while we looked
    return total


def _tail(file: Path) -> str:
    """The last part of a file that may be long."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - 4 * _MOST_RESPONSES))
            return stream.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def _last_section(text: str) -> str:
    sections = list(re.finditer(r"^## step \d+$", text, re.MULTILINE))
    return text[sections[-1].start() :][:_MOST_RESPONSES].rstrip() if sections else ""


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def differing(configs: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Keys whose value is not the same in all, with each one's value ("-" where it has none)."""
    keys = sorted({key for config in configs for key in config})
    values = {key: [config.get(key, "-") for config in configs] for key in keys}
    return {key: each for key, each in values.items() if len(set(each)) > 1}
