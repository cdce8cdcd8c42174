"""A point of a study: a run of a few steps in processes of its own, and the medians of what it measured."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from megaent.errors import RunError
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
    _start(point.ranks, words, limit_s)
    return read_measured(run / "metrics.jsonl")


def _start(ranks: int, words: list[str], limit_s: float) -> None:
    one = [sys.executable, "-m", "megaent"]
    several = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [*([*several, "-m", "megaent"] if ranks > 1 else one), "train", *words]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired as error:
        raise RunError(f"a run did not end within {limit_s:g} s: {' '.join(command)}") from error
    finally:
        if process.poll() is None:  # with the ranks that it started
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        raise RunError(
            f"a run ended with code {process.returncode}: {' '.join(command)}\n{_why(said.splitlines())}"
        )


def _why(said: list[str]) -> str:
    """The run's own message, without what torchrun adds below it; its last lines where there is none."""
    own = [line for line in said if line.startswith("megaent")]
    return "\n".join(own or said[-15:])


def read_measured(metrics: Path) -> Measured:
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    later = [row for row in rows if row["step"] > 1]

    def of(name: str) -> float:
        return median(row[name] for row in later)

    tokens = median(row["tokens/prompt"] + row["tokens/response"] for row in later)
    return Measured(
        seconds={verb: of(f"time/{verb}_s") for verb in _VERBS},
        tokens_per_s=tokens / of("time/step_s"),
        peak_gib=of("memory/peak_gib"),
        tokens=tokens,
    )
