"""Which precision is possible where, what it rounds, and how far it moves log-probabilities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.builders import group
from support.tiny_hf import save_tiny

from megaent.actor.megatron_actor import ActorOptions, MegatronActor
from megaent.actor.optimizer import AdamOptions
from megaent.actor.parallel import Layout
from megaent.actor.precision import (
    PRECISIONS,
    Auto,
    Fp8,
    Fp8Simulation,
    Machine,
    Mxfp8,
    Nvfp4,
    Precision,
    length_multiple,
    megatron_options,
    resolve,
)
from megaent.actor.quantise import RECIPES, Operand
from megaent.actor.simulated_linear import RoundedProduct
from megaent.errors import ConfigError, NumericsError
from megaent.experience.pack import pack
from megaent.types import Experience

pytestmark = pytest.mark.full

CPU = Machine(card="", capability=(0, 0), has_transformer_engine=False)
A100 = Machine(card="NVIDIA A100", capability=(8, 0), has_transformer_engine=True)
L4 = Machine(card="NVIDIA L4", capability=(8, 9), has_transformer_engine=True)
H100 = Machine(card="NVIDIA H100", capability=(9, 0), has_transformer_engine=True)
B200 = Machine(card="NVIDIA B200", capability=(10, 0), has_transformer_engine=True)
TE = {"dtype": "bfloat16", "implementation": "transformer_engine"}
LOCAL = {"dtype": "float32", "implementation": "local"}


@pytest.mark.parametrize(
    ("asked", "machine", "model", "told"),
    [
        (Fp8(), CPU, TE, "needs a CUDA card, and there is none"),
        (Fp8(), A100, TE, "needs a card of compute capability 8.9, and NVIDIA A100 has 8.0"),
        (Fp8(recipe="blockwise"), L4, TE, "capability 9.0, and NVIDIA L4 has 8.9"),
        (Mxfp8(), H100, TE, "capability 10.0, and NVIDIA H100 has 9.0"),
        (Nvfp4(), H100, TE, "capability 10.0, and NVIDIA H100 has 9.0"),
        (Fp8(), H100._replace(has_transformer_engine=False), TE, "needs Transformer Engine"),
        (Fp8(), H100, TE | {"implementation": "local"}, "needs model.implementation=transformer_engine"),
        (Fp8(), H100, TE | {"dtype": "float32"}, "needs model.dtype=bfloat16, got float32"),
        (Fp8Simulation(), H100, TE, "needs model.implementation=local"),
    ],
)
def test_what_is_not_possible_is_refused_by_what_is_missing(
    asked: Precision, machine: Machine, model: dict[str, str], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        resolve(asked, **model, machine=machine)


def test_what_is_possible_is_taken_as_it_is() -> None:
    for asked, machine in ((Fp8(), L4), (Fp8(recipe="blockwise"), H100), (Mxfp8(), B200), (Nvfp4(), B200)):
        assert resolve(asked, **TE, machine=machine) is asked
    for machine in (CPU, A100, H100):
        assert resolve(Fp8Simulation(), **LOCAL, machine=machine) == Fp8Simulation()
        assert resolve(Precision(), **LOCAL, machine=machine) == Precision()


def test_auto_is_fp8_where_that_is_possible_and_full_elsewhere() -> None:
    asked = Auto(full_layers=1, probe_every=7, drift_limit=0.5)
    assert resolve(asked, **TE, machine=H100) == Fp8(full_layers=1, probe_every=7, drift_limit=0.5)
    assert resolve(asked, **TE, machine=A100) == Precision()
    assert resolve(asked, **LOCAL, machine=H100) == Precision()


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("fp8", {"recipe": "mxfp8"}, "tensorwise, blockwise, delayed, got 'mxfp8'"),
        ("fp8_sim", {"recipe": "delayed"}, "tensorwise, blockwise, mxfp8, got 'delayed'"),
        ("fp8", {"recipe": "delayed", "full_layers": 1}, "rounds every layer"),
        ("fp8_sim", {"full_layers": -1}, "full_layers must be 0 or more"),
        ("fp8_sim", {"probe_every": 0, "drift_limit": 0.1}, "has no effect with precision.probe_every=0"),
    ],
)
def test_options_that_mean_nothing_are_refused(name: str, options: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        PRECISIONS[name](**options)


def test_transformer_engine_is_asked_for_by_megatrons_names() -> None:
    assert megatron_options(Precision()) == megatron_options(Fp8Simulation()) == {}
    assert megatron_options(Fp8()) == {"fp8": "hybrid", "fp8_recipe": "tensorwise"}
    assert megatron_options(Fp8(recipe="blockwise", full_layers=2)) == {
        "fp8": "e4m3",
        "fp8_recipe": "blockwise",
        "first_last_layers_bf16": True,
        "num_layers_at_start_in_bf16": 2,
        "num_layers_at_end_in_bf16": 2,
    }
    assert megatron_options(Mxfp8()) == {"fp8": "e4m3", "fp8_recipe": "mxfp8"}
    assert megatron_options(Nvfp4()) == {"fp4": "e2m1", "fp4_recipe": "nvfp4"}
    of_tokens = [length_multiple(each) for each in (Precision(), Fp8Simulation(), Fp8(), Mxfp8())]
    assert of_tokens == [1, 1, 16, 32]


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_of_the_three_products_rounds_along_what_it_sums_over(recipe: str) -> None:
    noise = torch.Generator().manual_seed(1)
    x = torch.randn(40, 150, generator=noise, dtype=torch.float64).requires_grad_()
    w = torch.randn(130, 150, generator=noise, dtype=torch.float64).requires_grad_()
    grad = torch.randn(40, 130, generator=noise, dtype=torch.float64)
    rule = RECIPES[recipe]

    def rounded(values: torch.Tensor, kind: torch.dtype, *, is_weight: bool = False) -> torch.Tensor:
        return rule.rounded(Operand(values.detach(), along=1, is_weight=is_weight), kind).double()

    out = RoundedProduct.apply(x, w, rule)
    out.backward(grad)
    forward, backward = rule.forward, rule.backward
    assert torch.equal(out, rounded(x, forward) @ rounded(w, forward, is_weight=True).T)
    by_output = rounded(w.T, forward, is_weight=True)
    assert torch.allclose(x.grad, rounded(grad, backward) @ by_output.T, rtol=0, atol=1e-12)
    assert torch.allclose(w.grad, rounded(grad.T, backward) @ rounded(x.T, forward).T, rtol=0, atol=1e-12)


# ---------------------------------------------------------------- an actor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("precision") / "model", family="qwen3", tie=True)


def actor_of(folder: Path, layout: Layout, precision: Precision) -> MegatronActor:
    options = ActorOptions(dtype="float32", precision=precision)
    return MegatronActor(folder, layout, options, AdamOptions(lr=1e-2, clip_grad=0.0))


def batch() -> Experience:
    packed = pack([group(0, [1.0, 0.0], [5, 9]), group(1, [0.0, 1.0, 1.0], [3, 1, 17])])
    return replace(packed, token=packed.token % 100)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_drift_is_the_difference_of_two_actors(layout: Layout, folder: Path, recipe: str) -> None:
    rounded = actor_of(folder, layout, Fp8Simulation(recipe=recipe))
    full = actor_of(folder, layout, Precision())
    scores = [each.score(batch(), temperature=1.0).log_prob_old for each in (rounded, full)]
    apart = (scores[0] - scores[1]).double().abs()
    told = rounded.drift(batch(), temperature=1.0)
    assert told["precision/drift_mean_abs"] == pytest.approx(float(apart.mean()), rel=1e-6)
    assert told["precision/drift_max"] == pytest.approx(float(apart.max()), rel=1e-6)
    assert 1e-3 < told["precision/drift_mean_abs"] < 1
    again = rounded.score(batch(), temperature=1.0).log_prob_old
    assert torch.equal(again, scores[0]), "a comparison leaves the rounding as it was"
    assert full.drift(batch(), temperature=1.0)["precision/drift_max"] == 0.0


def test_layers_that_are_kept_full_are_not_rounded(layout: Layout, folder: Path) -> None:
    full = actor_of(folder, layout, Precision()).score(batch(), temperature=1.0).log_prob_old
    means = []
    for kept in (0, 1, 2):
        actor = actor_of(folder, layout, Fp8Simulation(full_layers=kept))
        means.append(float((actor.score(batch(), temperature=1.0).log_prob_old - full).abs().mean()))
    assert means[0] > means[1] > means[2] == 0.0, "a model of four layers"


def test_a_drift_above_its_limit_stops_the_run(layout: Layout, folder: Path) -> None:
    actor = actor_of(folder, layout, Fp8Simulation(drift_limit=1e-4))
    with pytest.raises(NumericsError, match=r"fp8_sim moves log-probabilities by .* precision\.drift_limit"):
        actor.drift(batch(), temperature=1.0)
