"""How much of the shorter of generation and training one step off hides, on two cores.

    python benchmarks/overlap.py --out FILE [--pairs 3] [--steps 12] [--hidden-size 192]

The demonstration with a model of a size at which an SGLang server on the second core generates about as long
as the trainer on the first trains. A pair is one run that does both in turn and one that generates a step
ahead, of the same steps from the same weights; the first two steps of each are left out. The learning rate is
so small that no response changes its length by what is learnt. With g, t and p the medians of a synchronous
step's seconds of generation, of training and of publishing (while which nothing is generated), and o the
median second of a step that is one step off, the share hidden is (g + t + p - o) / min(g, t): 1 where the
shorter of the two costs nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from server_on_cpu import start_server

from megaent.bench.record import ROOT, describe
from megaent.data.chain_sum import ChainSumOptions
from megaent.report.metrics import read_metrics
from megaent.small_models.options import DemoModelOptions
from megaent.small_models.warmup import CONTEXT, make_demo_model

TRAINER_CORE, SERVER_CORE = 0, 1
NUM_LEFT_OUT = 2
RUN_LIMIT_S = 1800.0
_SIZES = ("hidden_size", "intermediate_size", "num_layers", "warmup_steps")


def train(url: str, folder: Path, staleness: int, steps: int, model: DemoModelOptions) -> list[dict]:
    """The metrics of a whole run in a process of its own."""
    words = [
        "train",
        "experiment=demo",
        "rollout=sglang",
        "method=[grpo,tis]",
        f"rollout.urls=[{url}]",
        f"rollout.staleness={staleness}",
        "optim.lr=1e-12",
        *(f"model.{name}={getattr(model, name)}" for name in _SIZES),
        f"steps={steps}",
        "evaluate.at_start=false",
        "evaluate.every=0",
        f"run.dir={folder}",
    ]
    command = [sys.executable, "-m", "megaent", *words]
    subprocess.run(command, cwd=ROOT, check=True, timeout=RUN_LIMIT_S, stdout=subprocess.DEVNULL)
    return read_metrics(folder / "metrics.jsonl")[NUM_LEFT_OUT:]


def median(lines: list[dict[str, float]], name: str) -> float:
    return statistics.median(line[name] for line in lines)


def summary(pairs: list[dict[str, list[dict[str, float]]]]) -> dict[str, object]:
    """Medians over the steps of all pairs, and the share hidden of each pair."""
    shares = []
    for pair in pairs:
        whole = median(pair["synchronous"], "time/step_s")
        generation = median(pair["synchronous"], "time/generate_s")
        training = whole - generation - median(pair["synchronous"], "time/publish_s")
        hidden = whole - median(pair["one step off"], "time/step_s")
        shares.append(hidden / min(generation, training))
    every = {name: [line for pair in pairs for line in pair[name]] for name in pairs[0]}
    names = [
        f"time/{verb}_s" for verb in ("step", "generate", "generate_hidden", "score", "update", "publish")
    ]
    return {
        "median_s": {kind: {name: median(lines, name) for name in names} for kind, lines in every.items()},
        "share_hidden_of_each_pair": shares,
        "share_hidden": statistics.median(shares),
    }


def run(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    config = DemoModelOptions(
        hidden_size=options.hidden_size,
        intermediate_size=4 * options.hidden_size,
        num_layers=4,
        warmup_steps=60,
    )
    model = make_demo_model(config, ChainSumOptions(), cache_dir=folder)
    os.environ |= {"OMP_NUM_THREADS": "1", "MEGAENT_CACHE": str(folder)}
    os.sched_setaffinity(0, {SERVER_CORE})  # what is started inherits it
    server = start_server(model, folder / "server.log", context_length=CONTEXT, max_running_requests=128)
    os.sched_setaffinity(0, {TRAINER_CORE})
    pairs = []
    try:
        for number in range(options.pairs):
            kinds = {"synchronous": 0, "one step off": 1}
            pairs.append(
                {
                    kind: train(
                        server.url, folder / f"run-{number}-{staleness}", staleness, options.steps, config
                    )
                    for kind, staleness in kinds.items()
                }
            )
    finally:
        server.close()
    return summary(pairs) | {"pairs": pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--hidden-size", type=int, default=192)
    options = parser.parse_args()
    report = describe("cpu", shlex.join(["python", *sys.argv]))
    with tempfile.TemporaryDirectory() as folder:
        report |= run(options, Path(folder))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({name: report[name] for name in ("median_s", "share_hidden_of_each_pair")}, indent=1))


if __name__ == "__main__":
    main()
