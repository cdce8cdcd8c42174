"""A training step here, in an older build and in TRL: the same model, prompts, reward and optimizer.

    ./scripts/setup_trl                                          TRL in an environment of its own
    python benchmarks/beside_trl.py addition --out FILE.json     SmolLM2-135M on 4-shot addition
    python benchmarks/beside_trl.py demo --out FILE.json         the demonstration's chain sums
    python benchmarks/beside_trl.py long_prompts --out FILE.json  a prompt of 1 024 tokens, 16 responses
    … --before TREE       also the build in TREE (a checkout with its compiled ops), same environment
    … --without-trl       where there is no TRL
    python benchmarks/beside_trl.py draw FILE.json CURVES.png    reward over steps of all contenders

Every contender runs in processes of its own on one core, one after the other, ``--rounds`` times in turn.
Reported are the median step after the first ones, in seconds of the processor and of the clock, the peak
memory of the whole process, and rewards.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
SMOLLM2 = ROOT / "models" / "SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class Work:
    overrides: tuple[str, ...]
    steps: int
    warm_up: int = 2  # steps that do not count
    has_trl: bool = True


WORKS = {
    "addition": Work(("experiment=smollm2_addition",), steps=8),
    "demo": Work(("experiment=demo",), steps=20),
    "long_prompts": Work(
        (
            f"model.path={SMOLLM2}",
            "rollout.prompts_per_step=1",
            "rollout.group_size=16",
            "rollout.max_new_tokens=64",
            "parallel.microbatch_tokens=4096",
            "optim.lr=1e-5",
        ),
        steps=3,
        warm_up=1,
        has_trl=False,
    ),
}
COMMON = (
    "device=cpu",
    "evaluate.every=0",
    "evaluate.at_start=false",
    "checkpoint.minutes=0",
    "checkpoint.every=0",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="work", required=True)
    for name in WORKS:
        one = commands.add_parser(name)
        one.add_argument("--out", type=Path, required=True)
        one.add_argument("--before", type=Path)
        one.add_argument("--steps", type=int, default=WORKS[name].steps)
        one.add_argument("--rounds", type=int, default=2)
        one.add_argument("--core", type=int, default=0)
        one.add_argument("--without-trl", action="store_true")
    drawing = commands.add_parser("draw")
    drawing.add_argument("source", type=Path)
    drawing.add_argument("target", type=Path)
    asked = parser.parse_args()
    if asked.work == "draw":
        draw(asked.source, asked.target)
    else:
        measure(asked)


def measure(asked: argparse.Namespace) -> None:
    work = WORKS[asked.work]
    contenders = {"megaent": ROOT} | ({"before": asked.before.resolve()} if asked.before else {})
    has_trl = work.has_trl and not asked.without_trl
    runs: dict[str, list[dict]] = {name: [] for name in (*contenders, *(["trl"] if has_trl else []))}
    record = {"work": asked.work, "command": sys.argv[1:], "machine": _machine()}
    record |= {"commits": _commits(contenders)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        words = [*work.overrides, *COMMON, f"steps={asked.steps}", *_data(asked.work, folder)]
        for number in range(asked.rounds):
            for name, tree in contenders.items():
                runs[name].append(run_megaent(tree, words, folder / f"{name}-{number}", asked.core))
            if has_trl:
                runs["trl"].append(run_trl(words, folder / f"trl-{number}", asked.core, asked.steps))
    record |= {
        "results": {name: summary(rounds, work.warm_up) for name, rounds in runs.items()},
        "runs": runs,
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(record, indent=1) + "\n")
    show(record)


def run_megaent(tree: Path, words: list[str], folder: Path, core: int) -> dict:
    worker, seconds = Path(__file__).with_name("step_worker.py"), folder.with_suffix(".json")
    configs = folder.with_name(f"{folder.name}-configs")  # a build reads its own groups
    configs.mkdir()
    (configs / "megaent_configs").symlink_to(tree / "configs")
    command = [sys.executable, str(worker), str(seconds), *words, f"run.dir={folder}"]
    peak = _run(command, core, tree, packages=(configs, tree))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    verbs = ("generate", "score", "update", "publish")
    return {
        "cpu_s": json.loads(seconds.read_text()),
        "step_s": [row["time/step_s"] for row in rows],
        **{f"{verb}_s": [row[f"time/{verb}_s"] for row in rows] for verb in verbs},
        "reward": [row["reward/mean"] for row in rows],
        "response_tokens": [row["tokens/response"] for row in rows],
        "peak_gib": peak,
    }


def run_trl(words: list[str], folder: Path, core: int, steps: int) -> dict:
    folder.mkdir()
    job = folder / "job.json"
    job.write_text(json.dumps(_job(words, steps, folder / "steps.json")))
    worker = Path(__file__).with_name("trl_worker.py")
    peak = _run(
        [str(ROOT / ".venv-trl" / "bin" / "python"), str(worker), str(job)], core, ROOT, packages=(ROOT,)
    )
    return json.loads((folder / "steps.json").read_text()) | {"peak_gib": peak}


def _job(words: list[str], steps: int, out: Path) -> dict:
    """What TRL is to do, read off the run's configuration: prompts in their order, and every number."""
    from megaent.config.composition import compose_config
    from megaent.run.launch import load_prompts
    from megaent.run.models import model_folder

    config, _ = compose_config(words)
    folder = model_folder(config.model, config.data, say=print, timeout_s=600)
    task, stream = load_prompts(config, folder)
    rollout, optim = config.rollout, config.optim
    asked = [prompt for step in range(steps) for _, prompt in stream.take(step * rollout.prompts_per_step)]
    return {
        "model": str(folder),
        "prompts": [{"prompt": task.text_of(prompt.tokens), "answer": prompt.answer} for prompt in asked],
        "grader": task.grader,
        "stop": list(task.stop_token_ids),
        "group_size": rollout.group_size,
        "prompts_per_step": rollout.prompts_per_step,
        "max_new_tokens": rollout.max_new_tokens,
        "minibatches": optim.minibatches,
        "lr": optim.lr,
        "warmup_steps": optim.warmup_steps,
        "clip_grad": optim.clip_grad,
        "betas": [optim.beta1, optim.beta2],
        "eps": optim.eps,
        "steps": steps,
        "out": str(out),
    }


def _data(work: str, folder: Path) -> list[str]:
    """Prompts of about 1 024 tokens of SmolLM2 for the work that has no task of its own."""
    if work != "long_prompts":
        return []
    file = folder / "questions.jsonl"
    text = "The train from the north carried {} boxes of apples and {} boxes of pears to the market. "
    stories = ["".join(text.format(n + k, 2 * k + 1) for k in range(46)) for n in range(8)]
    rows = [{"question": f"{story}Tell it again.", "answer": "1"} for story in stories]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"data.path={file}"]


def _run(command: list[str], core: int, tree: Path, *, packages: tuple[Path, ...]) -> float:
    """The process on one core to its end; its peak resident memory in GiB."""
    path = os.pathsep.join(map(str, packages))
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(
            ["taskset", "-c", str(core), *command], stdout=said, stderr=said, env=env, cwd=tree
        )
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{said.read()[-4000:]}")
    return usage.ru_maxrss / 2**20


def summary(rounds: list[dict], warm_up: int) -> dict[str, float]:
    """Medians over the steps of all rounds, and the highest peak."""
    timed = [name for name in rounds[0] if name.endswith("_s")]
    medians = {name: median(value for one in rounds for value in one[name][warm_up:]) for name in timed}
    return medians | {"peak_gib": max(one["peak_gib"] for one in rounds)}


def show(record: dict) -> None:
    own = record["results"]["megaent"]
    for name, found in record["results"].items():
        ratios = (found["cpu_s"] / own["cpu_s"], own["peak_gib"] / found["peak_gib"])
        print(
            f"{name:8} step {found['cpu_s']:8.3f} CPU s ({found['step_s']:.3f} s), {ratios[0]:5.2f} x; "
            f"peak {found['peak_gib']:5.2f} GiB, here {ratios[1]:4.2f} of it"
        )


def draw(source: Path, target: Path) -> None:
    from matplotlib.figure import Figure

    record = json.loads(source.read_text())
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, rounds in record["runs"].items():
        for number, one in enumerate(rounds):
            axes.plot(range(1, len(one["reward"]) + 1), one["reward"], label=name if not number else None)
    axes.set(xlabel="step", ylabel="mean reward", title=record["work"])
    axes.legend()
    figure.savefig(target, dpi=120)


def _machine() -> dict[str, str]:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cpu = names[0].partition(":")[2].strip() if names else platform.processor()
    return {"cpu": cpu, "python": platform.python_version(), "torch": version("torch"), "threads": "1"}


def _commits(trees: dict[str, Path]) -> dict[str, str]:
    return {
        name: subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=tree, capture_output=True, text=True, check=True
        ).stdout.strip()
        for name, tree in trees.items()
    }


if __name__ == "__main__":
    main()
