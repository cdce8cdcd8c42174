"""The ready experiments: each composes, is of its method, and has a layout that its model divides into."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from megaent.config.composition import compose_config
from megaent.methods import build_method
from megaent.model_folder.experts import Experts
from megaent.plan.shapes import find_shape
from megaent.run.config import TrainConfig

QWEN2_5 = {"qwen2_5_1_5b": 8, "qwen2_5_7b": 16, "qwen2_5_14b": 32, "qwen2_5_32b": 64}  # and their cards
METHODS = ("grpo", "ceeh", "egrc", "sent", "less", "etr")
RUNS = [(model, method, cards) for model, cards in QWEN2_5.items() for method in METHODS]
RUNS.append(("qwen3_30b_a3b", "grpo", 32))


def composed(name: str) -> TrainConfig:
    return compose_config([f"experiment={name}", "model.path=folder", "data.path=questions.jsonl"])[0]


@pytest.mark.parametrize(("model", "method", "cards"), RUNS)
def test_an_experiment_of_a_real_size_composes(model: str, method: str, cards: int) -> None:
    config = composed(f"{model}_{method}")
    assert config.run.name == f"{model}_{method}"
    assert repr(config.method) == repr(build_method({method: {}}))
    shape = find_shape(model)
    divided = SimpleNamespace(
        num_heads=shape.heads,
        num_kv_heads=shape.kv_heads,
        intermediate_size=shape.ffn,
        num_layers=shape.layers,
        experts=Experts(count=shape.experts, chosen=8, normalised=True) if shape.experts else None,
    )
    sizes = config.parallel.sizes
    sizes.check(divided, cards)
    assert (sizes.ep > 1) == bool(shape.experts)
    assert config.rollout.prompts_per_step % (cards // sizes.model_parallel) == 0
    # A colocated server stands on the cards of one copy of the model.
    on_a_copy = config.rollout.servers * config.rollout.server_args["tp_size"]
    assert on_a_copy == sizes.model_parallel
    assert config.rollout.max_new_tokens < config.parallel.microbatch_tokens


@pytest.mark.parametrize(("model", "cards"), [*QWEN2_5.items(), ("qwen3_30b_a3b", 32)])
def test_an_experiment_says_its_layout(repository: Path, model: str, cards: int) -> None:
    text = (repository / "configs" / "experiment" / f"{model}_grpo.yaml").read_text()
    sizes = composed(f"{model}_grpo").parallel.sizes
    said = re.search(r"on (\d+) H100 .*: TP(\d+) PP(\d+) CP(\d+) DP(\d+),", text)
    assert said is not None
    replicas = cards // sizes.model_parallel
    assert tuple(map(int, said.groups())) == (cards, sizes.tp, sizes.pp, sizes.cp, replicas)
    over = re.search(r"experts over (\d+) cards", text)
    assert sizes.ep == (1 if over is None else int(over[1]))
