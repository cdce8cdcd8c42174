"""Methods side by side: tune each equally, then run each on fresh seeds.

    python benchmarks/compare_methods.py tune --task two_strategies --seeds 101 102
    python benchmarks/compare_methods.py run  --task two_strategies --seeds 1 2 3 4 5
    python benchmarks/compare_methods.py table --task two_strategies
    python benchmarks/compare_methods.py run  --task smollm2 --arms grpo kl_cov --seeds 1 --steps 20

On the demonstration's tasks every arm starts from the same warm-up of its seed; SmolLM2 starts as published.
``tune`` tries the settings of each arm; ``run`` takes the best one on average, the published one where
nothing was tuned. Each finished run is one line of raw JSON, kept as it comes, so an interrupted command
goes on where it was. ``table`` prints means with 95 % intervals over seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

ROOT = Path(__file__).resolve().parents[1]
MAX_TOKENS = {"chain_sum": 96, "two_strategies": 40, "smollm2": 8}
EXPERIMENT = {"chain_sum": "demo", "two_strategies": "two_strategies", "smollm2": "smollm2_addition"}
HARD = {"chain_sum": "n=6", "two_strategies": "hard", "smollm2": "hard"}
LR = {"chain_sum": 6e-4, "two_strategies": 3e-4, "smollm2": 1e-5}  # of the experiment
EASY = {"chain_sum": "n=3", "two_strategies": "easy", "smollm2": "easy"}
OF_SMOLLM2 = ("evaluate.every=0", "checkpoint.every=0", "evaluate.prompts=64", "evaluate.group_size=8")
# Two-sided 97.5 % points of Student's t for 1 … 9 degrees of freedom.
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Arm:
    """A method, what the task's scale asks of it, and the settings to tune over, the published one first."""

    method: str
    settings: tuple[tuple[str, ...], ...]
    words: tuple[str, ...] = ()
    tuned_as: str = ""
    """The arm whose setting it takes, when it is not tuned itself."""


def arms(task: str) -> dict[str, Arm]:
    longest = MAX_TOKENS[task]

    tokens = f"method.max_length={longest}"
    rising = ("method.reward_at_limit=0.9", "method.compress_share=0.25")
    return {
        "grpo": Arm("grpo", over("optim.lr", *(_rounded(LR[task] * f) for f in (1, 5 / 3, 2 / 3)))),
        "dapo": Arm("dapo", over("method.max_batches", 1, 3, 2)),
        "entropy_bonus": Arm("entropy_bonus", over("method.coef", 3e-3, 1e-2, 3e-2)),
        "kl_cov": Arm("kl_cov", over("method.fraction", 2e-3, 2e-2, 0.1)),
        "clip_cov": Arm("clip_cov", over("method.fraction", 2e-4, 2e-2, 2e-3)),
        "forking_tokens": Arm(
            "forking_tokens", over("method.fraction", 0.2, 0.5, 0.8), ("method.max_batches=0",)
        ),
        "linear_length": Arm("linear_length", over("method.coef", 0.1, 0.3, 0.02), (tokens,)),
        "ceeh_me": Arm("ceeh", (*over("method.lam0", 1e-3, 5e-3), ("method.beta=0.02", "method.lam0=0.005"))),
        "ceeh_ea": Arm(
            "ceeh",
            (*over("method.alpha", 0.4, 0.1), ("method.beta=0.02", "method.alpha=0.1")),
            ("method.variant=ea",),
        ),
        "egrc": Arm("egrc", (*over("method.compress_share", 0.5, 0.25), rising), (tokens,)),
        "ee": Arm("ee", over("method.reward_at_limit", 0.1, 0.3, 0.9), (tokens,)),
        "sent": Arm("sent", (*over("method.beta_low", 0.05, 0.0125), ("method.stages=1",))),
        "less": Arm("less", over("method.min_length", 5, 2, 8)),
        "etr": Arm("etr", over("method.lam", 5e-3, 5e-2, 5e-4)),
        # The paper's order ablation, compression after the policy was trained; tuned as egrc is.
        "egrc_reverse": Arm("egrc", (), (tokens, "method.order=explore_first"), tuned_as="egrc"),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.1g}")


def over(key: str, *values: object) -> tuple[tuple[str, ...], ...]:
    """One setting for each value of an option."""
    return tuple((f"{key}={value}",) for value in values)


# ---------------------------------------------------------------- one run


def overrides(task: str, arm: Arm, setting: Sequence[str], seed: int, steps: int | None) -> list[str]:
    words = [
        f"experiment={EXPERIMENT[task]}",
        f"method={arm.method}",
        f"seed={seed}",
        f"data.seed={seed}",
        "run.threads=1",
        "run.tensorboard=false",
        "run.responses_kept=0",
        *(OF_SMOLLM2 if task == "smollm2" else [f"model.warmup_seed={seed}"]),
        *arm.words,
        *setting,
    ]
    return words if steps is None else [*words, f"steps={steps}"]


def run_one(job: dict) -> dict:
    """Train in this process; the summary and a thinned trajectory."""
    from megaent.cli import main

    with tempfile.TemporaryDirectory(prefix="compare-") as folder:
        started, cpu = time.perf_counter(), time.process_time()
        with open(os.devnull, "w") as nowhere:
            shown, sys.stdout = sys.stdout, nowhere
            try:
                code = main(["train", *job["overrides"], f"run.dir={folder}/run"])
            finally:
                sys.stdout = shown
        if code:
            return job | {"failed": code}
        run = Path(folder, "run")
        summary = json.loads((run / "summary.json").read_text())
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = ("accuracy/mean", "length/mean", "entropy/mean", "entropy/top20_share", "grad/norm")
    extra = sorted({name for line in lines for name in line if name.split("/")[0] in OWN_AREAS})
    trajectory = {name: [round(line.get(name, 0.0), 5) for line in lines] for name in (*kept, *extra)}
    return job | {
        "before": summary["before"],
        "after": summary["after"],
        "trajectory": trajectory,
        "wall_s": round(time.perf_counter() - started, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
    }


OWN_AREAS = ("ceeh", "egrc", "sent", "less", "etr")


def run_all(jobs: list[dict], out: Path, workers: int) -> None:
    done = {key(row) for row in read(out)}
    left = [job for job in jobs if key(job) not in done]
    print(f"{len(jobs) - len(left)} of {len(jobs)} runs are there already; {len(left)} to go", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    at = commit()
    # Not a Pool: its workers are daemons, and a run starts processes of its own to write checkpoints.
    with ProcessPoolExecutor(workers, mp_context=context) as pool, out.open("a") as file:
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


def told(row: dict) -> str:
    if "failed" in row:
        return f"failed with exit code {row['failed']}"
    after = row["after"]
    hard, easy = HARD[row["task"]], EASY[row["task"]]
    return (
        f"easy {after[f'{easy}/accuracy']:.3f} hard {after[f'{hard}/accuracy']:.3f} length "
        f"{after['mean_length']:.1f} entropy {after['mean_entropy']:.3f} ({row['wall_s']:.0f} s)"
    )


def key(row: dict) -> tuple:
    return row["task"], row["arm"], tuple(row["setting"]), row["seed"]


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def commit() -> str:
    told = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return told.stdout.strip()


# ---------------------------------------------------------------- tuning and tables


def score(row: dict) -> float:
    """What tuning maximises, the same for every arm: accuracy over easy and hard, less a price for length."""
    if "failed" in row:
        return -math.inf
    after = row["after"]
    hard, easy = HARD[row["task"]], EASY[row["task"]]
    both = (after[f"{easy}/accuracy"] + after[f"{hard}/accuracy"]) / 2
    return both - 0.1 * after["mean_length"] / MAX_TOKENS[row["task"]]


def chosen(rows: Iterable[dict]) -> dict[str, list[str]]:
    """Arm -> the setting of the highest mean score; of equals the published one."""
    by_arm: dict[str, dict[tuple, list[float]]] = {}
    for row in rows:
        by_arm.setdefault(row["arm"], {}).setdefault(tuple(row["setting"]), []).append(score(row))
    return {arm: list(max(settings, key=lambda s: fmean(settings[s]))) for arm, settings in by_arm.items()}


def interval(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{fmean(values):.3f}"
    half = STUDENT_T[len(values) - 2] * stdev(values) / math.sqrt(len(values))
    return f"{fmean(values):.3f} ± {half:.3f}"


def columns(task: str) -> dict[str, str]:
    """Heading -> key of an evaluation."""
    hard, easy = HARD[task], EASY[task]
    return {
        f"right, {easy}": f"{easy}/accuracy",
        f"right, {hard}": f"{hard}/accuracy",
        f"pass@8, {hard}": f"{hard}/pass_at_8",
        f"worst@8, {hard}": f"{hard}/worst_at_8",
        f"tokens, {easy}": f"{easy}/mean_length",
        f"tokens, {hard}": f"{hard}/mean_length",
        "entropy": "mean_entropy",
        f"first token, {hard}": f"{hard}/mean_first_entropy",
    }


def table(task: str, rows: list[dict]) -> str:
    """Mean and 95 % interval over seeds of every arm, and the differences to GRPO on the same seeds."""
    settings = {row["arm"]: row["setting"] for row in rows}  # the last one run is the one that was taken
    rows = [row for row in rows if "failed" not in row and row["setting"] == settings[row["arm"]]]
    if not rows:
        return f"no run of {task} has finished yet"
    arms_of = list(dict.fromkeys(row["arm"] for row in rows))
    by_seed = {arm: {row["seed"]: row["after"] for row in rows if row["arm"] == arm} for arm in arms_of}
    starts = {row["seed"]: row["before"] for row in rows}
    keys = columns(task)
    lines = _heading("arm", keys)
    for arm, evaluations in {"before": starts, **by_seed}.items():
        cells = [interval([evaluation[key] for evaluation in evaluations.values()]) for key in keys.values()]
        lines.append(_row(f"{arm} {' '.join(settings.get(arm, ()))}".strip(), len(evaluations), cells))
    lines += ["", *_heading("difference to grpo", keys)]
    plain = by_seed.get("grpo", {})
    for arm, evaluations in by_seed.items():
        seeds = sorted(evaluations.keys() & plain.keys())
        if arm != "grpo" and seeds:
            cells = [interval([evaluations[s][key] - plain[s][key] for s in seeds]) for key in keys.values()]
            lines.append(_row(arm, len(seeds), cells))
    return "\n".join(lines)


def _heading(first: str, keys: dict[str, str]) -> list[str]:
    return [f"| {first} | seeds | " + " | ".join(keys) + " |", "| --- " + "| ---: " * (len(keys) + 1) + "|"]


def _row(name: str, seeds: int, cells: list[str]) -> str:
    return f"| {name} | {seeds} | " + " | ".join(cells) + " |"


def tuning_table(rows: list[dict]) -> str:
    best = chosen(rows)
    lines = ["| arm | setting | seeds | score | taken |", "| --- | --- | ---: | ---: | --- |"]
    for arm, setting in dict.fromkeys((row["arm"], tuple(row["setting"])) for row in rows):
        scores = [score(row) for row in rows if (row["arm"], tuple(row["setting"])) == (arm, setting)]
        taken = "yes" if list(setting) == best[arm] else ""
        lines.append(f"| {arm} | {' '.join(setting)} | {len(scores)} | {fmean(scores):.3f} | {taken} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("tune", "run", "table"))
    parser.add_argument("--task", choices=sorted(EXPERIMENT), required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--arms", nargs="*", help="all by default")
    parser.add_argument(
        "--settings", type=int, help="how many of each arm's settings to tune over; all by default"
    )
    parser.add_argument("--steps", type=int, help="of each run; the experiment's by default")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/epyc-2.9ghz-2cores/methods")
    options = parser.parse_args()
    tuning, results = options.out / f"{options.task}_tuning.jsonl", options.out / f"{options.task}.jsonl"
    if options.action == "table":
        print(table(options.task, read(results)))
        print(f"\n{tuning_table(read(tuning))}" if tuning.exists() else "")
        return
    wanted = {
        name: arm for name, arm in arms(options.task).items() if name in (options.arms or arms(options.task))
    }
    best = chosen(read(tuning))

    def taken(name: str) -> Sequence[str]:
        """The setting that did best, or the published one where nothing was tuned."""
        tuned = wanted[name].tuned_as or name
        return best.get(tuned, arms(options.task)[tuned].settings[0])

    jobs = [
        {
            "task": options.task,
            "arm": name,
            "setting": list(setting),
            "seed": seed,
            "overrides": overrides(options.task, arm, setting, seed, options.steps),
        }
        for seed in options.seeds
        for name, arm in wanted.items()
        for setting in (arm.settings[: options.settings] if options.action == "tune" else [taken(name)])
    ]
    run_all(jobs, tuning if options.action == "tune" else results, options.jobs)


if __name__ == "__main__":
    main()
