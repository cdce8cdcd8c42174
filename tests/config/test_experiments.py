"""The ready experiments: each composes, is of its method, and has a layout that its model divides into."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from megaent.config.composition import compose_config
from megaent.methods import build_method
from megaent.plan.shapes import find_shape

SIZES = {"1_5b": 8, "7b": 16, "14b": 32, "32b": 64}  # and their cards
METHODS = ("grpo", "ceeh", "egrc", "sent", "less", "etr")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", SIZES)
def test_an_experiment_of_a_real_size_composes(size: str, method: str) -> None:
    name = f"qwen2_5_{size}_{method}"
    config, _ = compose_config([f"experiment={name}", "model.path=folder", "data.path=questions.jsonl"])
    assert config.run.name == name
    assert repr(config.method) == repr(build_method({method: {}}))
    shape = find_shape(f"qwen2_5_{size}")
    divided = SimpleNamespace(
        num_heads=shape.heads,
        num_kv_heads=shape.kv_heads,
        intermediate_size=shape.ffn,
        num_layers=shape.layers,
    )
    cards, sizes = SIZES[size], config.parallel.sizes
    sizes.check(divided, cards)
    assert config.rollout.prompts_per_step % (cards // sizes.model_parallel) == 0
    # A colocated server stands on the cards of one copy of the model.
    on_a_copy = config.rollout.servers * config.rollout.server_args["tp_size"]
    assert on_a_copy == sizes.model_parallel
    assert config.rollout.max_new_tokens < config.parallel.microbatch_tokens


def test_an_experiment_says_its_layout(repository: Path) -> None:
    for size, cards in SIZES.items():
        text = (repository / "configs" / "experiment" / f"qwen2_5_{size}_grpo.yaml").read_text()
        config, _ = compose_config(
            [f"experiment=qwen2_5_{size}_grpo", "model.path=folder", "data.path=questions.jsonl"]
        )
        sizes = config.parallel.sizes
        said = re.search(r"on (\d+) H100 .*: TP(\d+) PP(\d+) CP(\d+) DP(\d+),", text)
        assert said is not None
        replicas = cards // sizes.model_parallel
        assert tuple(map(int, said.groups())) == (cards, sizes.tp, sizes.pp, sizes.cp, replicas)
