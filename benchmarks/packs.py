"""Work divided by largest differencing beside the naive split, on lengths as reasoning models write them.

    .venv/bin/python benchmarks/packs.py      # writes benchmarks/results/packs/packs.json and prints a table

The naive split is prompt i to replica i mod n, and first fit into packs. Nothing is timed but the division.
The model is Qwen2.5-7B's shape, prompts are read once for each response, as on a GPU.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import torch

from megaent.actor.microbatch import PackRules, WorkOfPacks, first_fit, split_microbatches
from megaent.actor.work import work_of
from megaent.experience.balance import deal, imbalance
from megaent.experience.pack import minibatch_of_places, pack
from megaent.model_folder.architecture import Architecture
from megaent.types import Grade, Group, Prompt, Response

SHAPE = Architecture(
    family="qwen2",
    num_layers=28,
    hidden_size=3584,
    intermediate_size=18944,
    num_heads=28,
    num_kv_heads=4,
    head_dim=128,
    vocab_size=152064,
    rms_norm_eps=1e-6,
    max_positions=32768,
    tie_embeddings=False,
    qkv_bias=True,
    qk_norm=False,
)
LIMIT, PROMPT, GROUP, PROMPTS, STEPS, PACK = 8192, 200, 8, 256, 2, 16384
RESULTS = Path(__file__).with_name("results") / "packs"


def log_normal(noise: torch.Generator) -> torch.Tensor:
    """Difficulty of the prompt and luck of the response, both multiply."""
    hard = torch.randn(PROMPTS, 1, generator=noise)
    luck = torch.randn(PROMPTS, GROUP, generator=noise)
    return 800 * (0.9 * hard + 0.5 * luck).exp()


def heavy_tail(noise: torch.Generator) -> torch.Tensor:
    """Pareto of exponent 1.2."""
    return 300 * torch.rand(PROMPTS, GROUP, generator=noise) ** (-1 / 1.2)


def cut_off(noise: torch.Generator) -> torch.Tensor:
    """A tenth of the prompts runs into the limit, the others end early."""
    is_long = torch.rand(PROMPTS, 1, generator=noise) < 0.1
    return torch.where(is_long, LIMIT, 300 + 500 * torch.rand(PROMPTS, GROUP, generator=noise))


def even(noise: torch.Generator) -> torch.Tensor:
    return 200 + 1800 * torch.rand(PROMPTS, GROUP, generator=noise)


def measure(lengths: torch.Tensor, replicas: int) -> dict[str, float]:
    """Imbalance of both divisions, over replicas and over one replica's packs."""
    work = work_of(SHAPE, shares_prompts=False)
    lengths = lengths.clamp(1, LIMIT).long()
    cost = {place: work.of_group(PROMPT, row) for place, row in enumerate(lengths.tolist())}
    step_of = minibatch_of_places(cost, STEPS)
    rounds = [{p: c for p, c in cost.items() if step_of[p] == step} for step in range(STEPS)]
    began = time.process_time()
    holder = deal(rounds, replicas)
    took = time.process_time() - began
    found = {
        "replicas_naive": imbalance(_loads(rounds, lambda place: place % replicas, replicas)),
        "replicas_by_work": imbalance(_loads(rounds, holder.__getitem__, replicas)),
        "seconds_dealing": took,
    }
    mine = [place for place in rounds[0] if holder[place] == 0]
    return found | _packs(lengths[mine].tolist())


def _loads(rounds: list[dict[int, int]], holder: Callable[[int], int], replicas: int) -> list[list[int]]:
    loads = [[0] * replicas for _ in rounds]
    for load, cost in zip(loads, rounds, strict=True):
        for place, value in cost.items():
            load[holder(place)] += value
    return loads


def _packs(rows: list[list[int]]) -> dict[str, float]:
    work, rules = work_of(SHAPE, shares_prompts=False), PackRules(PACK)
    batch = pack([_group(i, row) for i, row in enumerate(rows)])
    everyone = list(range(batch.num_responses))
    cost = WorkOfPacks(batch, work)
    naive = first_fit(batch, everyone, rules)
    began = time.process_time()
    packs = split_microbatches(batch, everyone, rules, work)
    return {
        "packs": float(len(packs)),
        "packs_first_fit": imbalance([[cost(each) for each in naive]]),
        "packs_by_work": imbalance([[cost(each) for each in packs]]),
        "seconds_packing": time.process_time() - began,
    }


def _group(index: int, lengths: list[int]) -> Group:
    prompt = Prompt(id=str(index), tokens=(1,) * PROMPT, text="", answer="")
    drawn = [Response(tokens=(1,) * n, log_prob=(-1.0,) * n, finish="stop", version=0) for n in lengths]
    grades = (Grade(reward=0.0, correct=False),) * len(drawn)
    return Group(index=index, prompt=prompt, responses=tuple(drawn), grades=grades)


def main() -> None:
    rows = []
    for draw in (even, log_normal, heavy_tail, cut_off):
        for replicas in (2, 8, 32):
            found = [measure(draw(torch.Generator().manual_seed(seed)), replicas) for seed in range(3)]
            means = {name: mean(each[name] for each in found) for name in found[0]}
            rows.append({"lengths": draw.__name__, "replicas": replicas} | means)
            print(
                "| {lengths} | {replicas} | {replicas_naive:.3f} | {replicas_by_work:.4f} | {packs:.0f} "
                "| {packs_first_fit:.3f} | {packs_by_work:.3f} |".format(**rows[-1]),
                flush=True,
            )
    RESULTS.mkdir(parents=True, exist_ok=True)
    about = {
        "prompts": PROMPTS,
        "group_size": GROUP,
        "optimizer_steps": STEPS,
        "prompt_tokens": PROMPT,
        "limit_tokens": LIMIT,
        "pack_tokens": PACK,
        "seeds": 3,
        "model": "Qwen2.5-7B's shape",
    }
    text = json.dumps({"about": about, "rows": rows}, indent=1) + "\n"
    (RESULTS / "packs.json").write_text(text)


if __name__ == "__main__":
    main()
