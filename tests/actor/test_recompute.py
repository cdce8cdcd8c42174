"""What is computed again: how often each part of a layer ran, and that no bit of the update changes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.builders import group, seen
from support.tiny_hf import save_tiny

from megaent.actor.megatron_actor import ActorOptions, MegatronActor
from megaent.actor.optimizer import AdamOptions
from megaent.actor.parallel import Layout
from megaent.actor.recompute import RecomputeOptions
from megaent.errors import ConfigError
from megaent.experience.pack import pack
from megaent.methods import build_method
from megaent.objective.estimate import estimate
from megaent.types import Experience

pytestmark = pytest.mark.full

NONE = {part: [1, 1, 1, 1] for part in ("attention", "norm", "mlp")}  # passes by layer
EVERYTHING = {part: [2, 2, 2, 2] for part in NONE}
CASES = {
    "uniform": ({"granularity": "full"}, EVERYTHING),
    "uniform_2": ({"granularity": "full", "num_layers": 2}, EVERYTHING),
    "block_3": (
        {"granularity": "full", "method": "block", "num_layers": 3},
        {part: [2, 2, 2, 1] for part in NONE},
    ),
    "core_attn": ({"granularity": "selective"}, NONE | {"attention": [2, 2, 2, 2]}),
    "mlp": ({"granularity": "selective", "modules": ["mlp"]}, NONE | {"mlp": [2, 2, 2, 2]}),
    "both": (
        {"granularity": "selective", "modules": ["core_attn", "mlp"]},
        EVERYTHING | {"norm": [1, 1, 1, 1]},
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("recompute") / "model", family="qwen3", tie=True)


def make(folder: Path, layout: Layout, **recompute: object) -> MegatronActor:
    options = ActorOptions(dtype="float64", recompute=RecomputeOptions(**recompute))
    return MegatronActor(folder, layout, options, AdamOptions(lr=1e-2, clip_grad=0.0))


def scored(actor: MegatronActor) -> Experience:
    batch = pack([group(0, [1.0, 0.0], [5, 9]), group(1, [0.0, 1.0, 1.0], [3, 1, 17])])
    return actor.score(replace(batch, token=batch.token % 100), temperature=1.0)


def update(actor: MegatronActor, batch: Experience) -> None:
    method = build_method({"grpo": {}}).phases[0].method
    terms, _ = estimate(method, seen(batch, population=actor.layout))
    actor.update(batch, terms, method.loss, temperature=1.0, num_minibatches=1)


def count_passes(actor: MegatronActor) -> Counter:
    """Of every layer's parts from now on."""
    ran: Counter = Counter()
    for number, layer in enumerate(actor.models[0].decoder.layers):
        parts = {
            "attention": layer.self_attention.core_attention,
            "norm": layer.input_layernorm,
            "mlp": layer.mlp,
        }
        for name, part in parts.items():
            part.register_forward_hook(lambda *_, key=(name, number): ran.update([key]))
    return ran


def result(actor: MegatronActor) -> dict[str, torch.Tensor]:
    gradients = {name: p.main_grad.clone() for name, p in actor.models[0].named_parameters()}
    return gradients | dict(actor.named_weights())


@pytest.mark.parametrize("name", CASES)
def test_what_is_named_is_computed_twice_and_no_bit_changes(layout: Layout, folder: Path, name: str) -> None:
    options, expected = CASES[name]
    plain, again = make(folder, layout), make(folder, layout, **options)
    update(plain, scored(plain))
    batch = scored(again)
    ran = count_passes(again)
    update(again, batch)
    assert {part: [ran[part, layer] for layer in range(4)] for part in NONE} == expected
    left, right = result(plain), result(again)
    assert all(torch.equal(left[key], right[key]) for key in left)
    assert any(float(value.abs().max()) > 1e-3 for value in left.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"granularity": "whole"}, "granularity must be one of none, full, selective"),
        ({"num_layers": 2}, "num_layers has no effect with granularity=none"),
        ({"granularity": "selective", "method": "block"}, "method has no effect with granularity=selective"),
        ({"granularity": "full", "modules": ["mlp"]}, "modules has no effect with granularity=full"),
        ({"granularity": "full", "method": "each"}, "must be uniform or block"),
        ({"granularity": "full", "num_layers": 0}, "must be positive"),
        ({"granularity": "selective", "modules": []}, "must name some of core_attn, layernorm, mlp, moe"),
        ({"granularity": "selective", "modules": ["attn"]}, "must name some of core_attn"),
    ],
)
def test_words_without_effect_or_sense_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RecomputeOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"granularity": "full", "num_layers": 5}, "a pipeline stage has 4 layers; choose 1 to 4"),
        ({"granularity": "selective", "modules": ["layernorm"]}, "with Transformer Engine only"),
        ({"granularity": "selective", "modules": ["moe"]}, "no layer of this qwen3 model has one; name mlp"),
    ],
)
def test_what_the_model_has_not_is_refused(layout: Layout, folder: Path, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(folder, layout, **options)
