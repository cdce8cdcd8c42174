"""Runs of the comparison: each trains in a process that others have used, and is kept as one line of JSON."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stdout
from pathlib import Path

from comparison.arms import SCALES

from megaent.lifetime import end_with_parent, tied_to_this_process

ROOT = Path(__file__).resolve().parents[2]
KEPT = ("accuracy/mean", "length/mean", "entropy/mean", "entropy/top20_share", "grad/norm")
OF_METHODS = ("ceeh", "egrc", "sent", "less", "etr")  # areas of metrics that are kept too
_LAST = 4  # a quarter: the last steps over which entropy by position is averaged


def run_one(job: dict) -> dict:
    """Train in this process: the evaluations, the learning curves, and the entropy by position."""
    from megaent.cli import main

    with tempfile.TemporaryDirectory(prefix="compare-") as folder:
        started, cpu = time.perf_counter(), time.process_time()
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            code = main(["train", *job["overrides"], f"run.dir={folder}/run"])
        if code:
            return job | {"failed": code}
        return job | {
            **_seen(Path(folder, "run")),
            "wall_s": round(time.perf_counter() - started, 1),
            "cpu_s": round(time.process_time() - cpu, 1),
        }


def _seen(run: Path) -> dict:
    summary = json.loads((run / "summary.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    own = sorted({name for line in lines for name in line if name.split("/")[0] in OF_METHODS})
    return {
        "before": summary["before"],
        "after": summary["after"],
        "trajectory": {name: [round(line.get(name, 0.0), 5) for line in lines] for name in (*KEPT, *own)},
        "entropy_by_position": entropy_by_position(run, len(lines)),
    }


def entropy_by_position(run: Path, steps: int) -> list[float]:
    """Mean entropy in nats of the 1st, 2nd, … response token, over sampled responses of the last quarter."""
    import pyarrow.parquet as pq

    rows = pq.read_table(run / "tables" / "tokens", columns=["step", "position", "entropy", "mask"])
    sums: dict[int, list[float]] = {}
    for row in rows.to_pylist():
        if row["mask"] and row["step"] > steps - steps // _LAST:
            sums.setdefault(row["position"], []).append(row["entropy"])
    return [round(sum(values) / len(values), 4) for _, values in sorted(sums.items())]


def run_all(jobs: list[dict], out: Path, workers: int) -> None:
    """Every job that ``out`` does not hold yet; a finished one is appended at once."""
    done = {key(row) for row in read(out)}
    left = [job for job in jobs if key(job) not in done]
    print(f"{len(jobs) - len(left)} of {len(jobs)} runs are there already; {len(left)} to go", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    at = commit()
    with pool_of(workers) as pool, out.open("a") as file:
        runs = [pool.submit(run_one, job) for job in left]
        for number, row in enumerate((run.result() for run in as_completed(runs)), 1):
            file.write(json.dumps(row | {"commit": at}) + "\n")
            file.flush()
            minutes = (time.perf_counter() - started) / 60
            print(
                f"[{number}/{len(left)} {minutes:.1f} min, {minutes * (len(left) / number - 1):.1f} left] "
                f"{row['arm']} {' '.join(row['setting'])} seed {row['seed']}: {told(row)}",
                flush=True,
            )


def pool_of(workers: int) -> ProcessPoolExecutor:
    """Fresh processes that end with this one, however it ends.

    Not a Pool: its workers are daemons, and a run starts processes of its own to write checkpoints.
    """
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(
        workers, mp_context=context, initializer=_end_with, initargs=(tied_to_this_process(),)
    )


def _end_with(parent: dict[str, str]) -> None:
    os.environ.update(parent)
    end_with_parent()


def told(row: dict) -> str:
    if "failed" in row:
        return f"failed with exit code {row['failed']}"
    after, scale = row["after"], SCALES[row["task"]]
    return (
        f"easy {after[f'{scale.easy}/accuracy']:.3f} hard {after[f'{scale.hard}/accuracy']:.3f} length "
        f"{after['mean_length']:.1f} entropy {after['mean_entropy']:.3f} ({row['cpu_s']:.0f} CPU s)"
    )


def key(row: dict) -> tuple[str, str, tuple[str, ...], int]:
    return row["task"], row["arm"], tuple(row["setting"]), row["seed"]


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def commit() -> str:
    said: Sequence[str] = ("git", "rev-parse", "--short", "HEAD")
    return subprocess.run(said, cwd=ROOT, capture_output=True, text=True).stdout.strip()
