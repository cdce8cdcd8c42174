"""``megaent demo``: one task, one warm-up, three methods at once, side by side when they are done.

Plain GRPO is the run in the directory itself; the other methods are whole runs under ``compare/``. Each is
an ordinary ``megaent train`` in a process of its own with one thread: on so small a model more threads
would wait for each other, and as many runs go on at once as there are cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from megaent.config.composition import compose_config
from megaent.config.fastest_dtype import require_named_dtype
from megaent.config.overrides import quoted
from megaent.durable import replace_file
from megaent.errors import ConfigError, RunError
from megaent.lifetime import tied_to_this_process
from megaent.report.comparison import comparison_markdown, comparison_table, draw_comparison
from megaent.report.metrics import read_metrics
from megaent.run.config import TrainConfig
from megaent.run.directory import RunDirectory
from megaent.run.models import model_folder

EXPERIMENT = "two_strategies"
PLAIN = "grpo"
LIMIT_S = 3600.0  # of all runs together
_LOOK_EVERY_S = 0.5
_TELL_EVERY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One method of the comparison."""

    title: str
    words: tuple[str, ...]  # its overrides


ARMS = {
    PLAIN: Arm(title="GRPO", words=("method=grpo",)),
    "linear_length": Arm(
        title="naive penalty",
        words=("method=linear_length", "method.max_length=40", "method.coef=0.1"),
    ),
    "ceeh": Arm(title="CEEH", words=("method=ceeh", "method.beta=0.03", "method.lam0=5e-3")),
}


def demo(overrides: Sequence[str]) -> None:
    """Train every arm, then write the comparison. Raises MegaentError; Ctrl-C ends all runs."""
    words, run = _split(overrides)
    config = _composed([*words, *ARMS[PLAIN].words, f"run.dir={quoted(str(run))}"])
    for arm in ARMS.values():
        _composed([*words, *arm.words])  # refused before anything is made
    RunDirectory(run).refuse_existing()
    console = Console(highlight=False)
    # The warm-up, once.
    model_folder(config.model, config.data, say=console.print, timeout_s=config.run.timeout_s)
    folders = {name: run if name == PLAIN else run / "compare" / name for name in ARMS}
    console.print(f"three methods from one warm-up, {_at_once()} at a time, in {run}")
    started = time.monotonic()
    with _processes() as start:
        waiting = [
            (name, [*words, *arm.words, f"run.dir={quoted(str(folders[name]))}"])
            for name, arm in ARMS.items()
        ]
        logs = {name: run / "compare" / f"{name}.log" for name in ARMS}
        _run_all(waiting, start, folders, logs, steps=config.steps, console=console)
    _finish(folders, run, time.monotonic() - started, console)


def _split(overrides: Sequence[str]) -> tuple[list[str], Path]:
    """The overrides that go to every arm, and the directory."""
    for word in overrides:
        if word.startswith(("method=", "experiment=", "method.")):
            raise ConfigError(
                f"the demonstration compares methods on one task and takes no {word}; "
                f"`megaent train experiment={EXPERIMENT} {word}` runs one"
            )
    chosen = [word.split("=", 1)[1] for word in overrides if word.startswith("run.dir=")]
    run = Path(chosen[-1] if chosen else f"runs/demo-{time.strftime('%Y%m%d-%H%M%S')}")
    kept = [word for word in overrides if not word.startswith("run.dir=")]
    return [
        f"experiment={EXPERIMENT}",
        "evaluate.every=20",
        "evaluate.prompts=128",
        "run.threads=1",
        *kept,
    ], run


def _composed(words: list[str]) -> TrainConfig:
    config, _ = compose_config(words)
    require_named_dtype(config, "the demonstration, whose runs are compared,")
    return config


# ---------------------------------------------------------------- processes


def _at_once() -> int:
    return max(1, min(len(ARMS), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2))


@contextmanager
def _processes() -> Iterator[Callable[[list[str], Path], subprocess.Popen]]:
    """A function that starts a run; whatever still runs at the end is ended."""
    started: list[subprocess.Popen] = []

    def start(words: list[str], log: Path) -> subprocess.Popen:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "megaent", "train", *words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | tied_to_this_process() | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
            )
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _run_all(
    waiting: list[tuple[str, list[str]]],
    start: Callable[[list[str], Path], subprocess.Popen],
    folders: dict[str, Path],
    logs: dict[str, Path],
    *,
    steps: int,
    console: Console,
) -> None:
    """Every run to its end, a line of news every few seconds. Raises RunError for the first that fails."""
    deadline = time.monotonic() + LIMIT_S
    running: dict[str, subprocess.Popen] = {}
    told = began = time.monotonic()
    while waiting or running:
        while waiting and len(running) < _at_once():
            name, words = waiting.pop(0)
            running[name] = start(words, logs[name])
        for name, process in list(running.items()):
            code = process.poll()
            if code is not None:
                del running[name]
                _require_success(name, code, logs[name])
        if time.monotonic() > deadline:
            raise RunError(f"the demonstration took over {LIMIT_S:g} s; see the logs beside its runs")
        if time.monotonic() - told >= _TELL_EVERY_S:
            told = time.monotonic()
            news = "  ·  ".join(_state(name, folders[name], steps) for name in ARMS)
            console.print(f"{told - began:4.0f} s  {news}", soft_wrap=True)
        time.sleep(_LOOK_EVERY_S)


def _require_success(name: str, code: int, log: Path) -> None:
    if code != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        last = "\n".join(lines[-8:])
        raise RunError(f"the run of {name} ended with code {code}; the end of {log}:\n{last}")


def _state(name: str, folder: Path, steps: int) -> str:
    """Where a run is, from the whole lines of its metrics."""
    if (folder / "summary.json").exists():
        return f"{ARMS[name].title}: done"
    file = folder / "metrics.jsonl"
    lines = read_metrics(file) if file.exists() else []
    if not lines:
        return f"{ARMS[name].title}: waiting"
    last = lines[-1]
    return (
        f"{ARMS[name].title}: {last['step']:g}/{steps}, {last['accuracy/mean']:.0%} right, "
        f"{last['length/mean']:.1f} tokens"
    )


# ---------------------------------------------------------------- the comparison


def _finish(folders: dict[str, Path], run: Path, seconds: float, console: Console) -> None:
    summaries = {name: json.loads((folder / "summary.json").read_text()) for name, folder in folders.items()}
    before = summaries[PLAIN]["before"]
    titles = {name: arm.title for name, arm in ARMS.items()}
    after = {titles[name]: summary["after"] for name, summary in summaries.items()}
    compare = {
        name: {"after": summary["after"], "run": str(folders[name].relative_to(run))}
        for name, summary in summaries.items()
        if name != PLAIN
    }
    whole = summaries[PLAIN] | {"compare": compare, "comparison_seconds": seconds}
    replace_file(run / "summary.json", json.dumps(whole, indent=2, allow_nan=False) + "\n")
    replace_file(run / "comparison.md", comparison_markdown(before, after))
    runs = {titles[name]: folder / "metrics.jsonl" for name, folder in folders.items()}
    draw_comparison(runs, before, run / "comparison.png")
    console.print(comparison_table(before, after))
    console.print(f"numbers  {run / 'summary.json'}\npicture  {run / 'comparison.png'}")
