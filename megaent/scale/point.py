"""A point of a study: a run of a few steps in processes of its own, and the medians of what it measured."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from megaent.report.metrics import read_metrics
from megaent.scale.processes import run_module
from megaent.scale.series import Point
from megaent.small_models.random_model import make_random_model

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
    model = folder / "models" / f"v{point.sizes.vocab}-h{point.sizes.hidden}-l{point.sizes.layers}"
    make_random_model(model, point.sizes)
    run = folder / "runs" / point.name
    shutil.rmtree(run, ignore_errors=True)
    words = [*point.words, f"model.path={model}", f"run.dir={run}", f"steps={steps}", f"device={device}"]
    run_module("megaent", ["train", *words], ranks=point.ranks, limit_s=limit_s)
    return read_measured(run / "metrics.jsonl")


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
