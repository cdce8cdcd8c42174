"""A point of a study: a run of a few steps in processes of its own, the medians of what it measured, and what
its ranks exchanged."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from megaent.report.metrics import read_metrics
from megaent.scale.processes import run_module
from megaent.scale.series import Point
from megaent.small_models.random_model import make_random_model

Counted = dict[str, tuple[int, int]]
"""Collectives by kind: how many, and their bytes."""

_VERBS = ("generate", "score", "update", "publish", "step")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Medians over the steps after the first, which warms up. Seconds and GiB are rank 0's."""

    seconds: dict[str, float]  # by verb, and of the whole step
    tokens_per_s: float  # prompt and response tokens of all ranks
    peak_gib: float
    tokens: float  # prompt and response tokens of a step, all replicas


def measure(point: Point, folder: Path, *, steps: int, device: str, limit_s: float) -> Measured:
    """``folder`` holds the models and runs of the study. Raises RunError for a run that did not end well."""
    run = folder / "runs" / point.name
    words = _words(point, folder, run, steps=steps, device=device)
    run_module("megaent", words, ranks=point.ranks, limit_s=limit_s)
    return read_measured(run / "metrics.jsonl")


def count(point: Point, folder: Path, *, device: str, limit_s: float) -> Counted:
    """Of the second step, as rank 0 enters them: what a run of two steps has beyond a run of one.

    Raises RunError for a run that did not end well.
    """
    one, two = (_counted(point, folder, steps, device, limit_s) for steps in (1, 2))
    found = {kind: _less(both, one.get(kind, (0, 0))) for kind, both in two.items()}
    return {kind: (number, size) for kind, (number, size) in found.items() if number}


def _less(whole: tuple[int, int], part: tuple[int, int]) -> tuple[int, int]:
    return whole[0] - part[0], whole[1] - part[1]


def _counted(point: Point, folder: Path, steps: int, device: str, limit_s: float) -> Counted:
    run = folder / "runs" / f"{point.name}-counted-{steps}"
    words = _words(point, folder, run, steps=steps, device=device)
    file = run.with_suffix(".json")
    run_module("megaent.scale.counted", [str(file), *words], ranks=point.ranks, limit_s=limit_s)
    return {kind: (number, size) for kind, (number, size) in json.loads(file.read_text()).items()}


def _words(point: Point, folder: Path, run: Path, *, steps: int, device: str) -> list[str]:
    """That start it anew, on a model that is made where it is not there."""
    model = folder / "models" / f"v{point.sizes.vocab}-h{point.sizes.hidden}-l{point.sizes.layers}"
    make_random_model(model, point.sizes)
    shutil.rmtree(run, ignore_errors=True)
    where = [f"model.path={model}", f"run.dir={run}", f"steps={steps}", f"device={device}"]
    return ["train", *point.words, *where]


def read_measured(metrics: Path) -> Measured:
    later = [row for row in read_metrics(metrics) if row["step"] > 1]

    def of(name: str) -> float:
        return median(row[name] for row in later)

    tokens = median(row["tokens/prompt"] + row["tokens/response"] for row in later)
    return Measured(
        seconds={verb: of(f"time/{verb}_s") for verb in _VERBS},
        tokens_per_s=tokens / of("time/step_s"),
        peak_gib=of("memory/peak_gib"),
        tokens=tokens,
    )
