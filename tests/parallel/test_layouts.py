"""The actor in every layout against an independent GRPO in plain torch: log-probs, loss, gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.layouts import (
    EMPTY,
    EVERY,
    FP32,
    FP64,
    LAYOUTS,
    METHOD_LAYOUTS,
    METHOD_STEPS,
    METHODS,
    UNEQUAL,
    differences,
    job,
    launch,
    reference,
)
from support.plain_lm import PlainResult
from support.tiny_hf import save_tiny

SHARING = [name for name, (_, sizes) in LAYOUTS.items() if "cp" not in sizes]  # read a prompt once a group
PLAIN = {"share_prompts": False, "kept_graphs_gib": 0.0}

pytestmark = [pytest.mark.full, pytest.mark.timeout(1000)]


class Runs:
    """Each world size is started once for the parity of all its layouts, and once for the methods in them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders = {
            "untied": save_tiny(root / "untied", family="qwen2", tie=False),
            "tied": save_tiny(root / "tied", family="qwen2", tie=True),
        }
        self._started: set[tuple[str, int]] = set()

    def result(self, layout: str, precision: str, model: str, variant: str = "even") -> dict:
        self._start("parity", EVERY[layout][0], self._parity)
        return torch.load(self._out(layout, precision, model, variant), weights_only=True)

    def of_method(self, layout: str, choice: str) -> dict:
        self._start("methods", LAYOUTS[layout][0], self._methods)
        return torch.load(self._method_out(layout, choice), weights_only=True)

    def _start(self, kind: str, size: int, jobs: Callable[[int], list[dict]]) -> None:
        if (kind, size) not in self._started:
            launch(jobs(size), size, self.root)
            self._started.add((kind, size))

    def _parity(self, size: int) -> list[dict]:
        jobs = [
            job(name, precision, folder, self._out(name, key, model, "even"))
            for name, (world, _) in EVERY.items()
            if world == size
            for model, folder in self.folders.items()
            for key, precision in (("fp32", FP32), ("fp64", FP64))
        ]
        for name in SHARING:
            if LAYOUTS[name][0] == size:
                out = self._out(name, "fp64", "untied", "repeated")
                jobs.append(
                    job(name, FP64, self.folders["untied"], out, share_prompts=False, kept_graphs_gib=0.0)
                )
        for name, (world, _) in EVERY.items():
            if world == size and name.startswith("dp2"):
                for variant, holders in (("unequal", UNEQUAL), ("empty", EMPTY)):
                    out = self._out(name, "fp64", "untied", variant)
                    jobs.append(job(name, FP64, self.folders["untied"], out, holders=holders))
                out = self._out(name, "fp64", "untied", "dealt")
                jobs.append(job(name, FP64, self.folders["untied"], out, holders=EMPTY, deal=True))
        return jobs

    def _methods(self, size: int) -> list[dict]:
        return [
            job(
                name,
                METHOD_STEPS,
                self.folders["untied"],
                self._method_out(name, choice),
                method=method,
                parts=True,
            )
            for name in METHOD_LAYOUTS
            if LAYOUTS[name][0] == size
            for choice, method in METHODS.items()
        ]

    def _method_out(self, layout: str, choice: str) -> Path:
        return self.root / f"{layout}-{choice}.pt"

    def _out(self, layout: str, precision: str, model: str, variant: str) -> Path:
        return self.root / f"{layout}-{precision}-{model}-{variant}.pt"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("layouts"))


@pytest.fixture(scope="module")
def truth(runs: Runs) -> dict[tuple[str, str], PlainResult]:
    return {
        (key, model): reference(folder, precision)
        for model, folder in runs.folders.items()
        for key, precision in (("fp32", FP32), ("fp64", FP64))
    }


@pytest.mark.both
@pytest.mark.parametrize("model", ["untied", "tied"])
@pytest.mark.parametrize("layout", EVERY)
def test_three_steps_in_fp32_follow_plain_torch(runs: Runs, truth: dict, layout: str, model: str) -> None:
    found = differences(runs.result(layout, "fp32", model), truth["fp32", model])
    assert found["log_prob"] <= 1e-5, found
    assert found["entropy"] <= 1e-5, found
    assert found["weight"] <= 1e-5, found
    assert found["norm"] <= 1e-5, found


@pytest.mark.both
@pytest.mark.parametrize("model", ["untied", "tied"])
@pytest.mark.parametrize("layout", EVERY)
def test_one_step_in_fp64_equals_plain_torch(runs: Runs, truth: dict, layout: str, model: str) -> None:
    check_fp64(differences(runs.result(layout, "fp64", model), truth["fp64", model]))


@pytest.mark.both
@pytest.mark.parametrize("variant", ["unequal", "empty"])
@pytest.mark.parametrize("layout", [name for name in EVERY if name.startswith("dp2")])
def test_unequal_and_empty_leaders_change_nothing(runs: Runs, truth: dict, layout: str, variant: str) -> None:
    check_fp64(differences(runs.result(layout, "fp64", "untied", variant), truth["fp64", "untied"]))


@pytest.mark.parametrize("layout", [name for name in EVERY if name.startswith("dp2")])
def test_prompts_dealt_to_other_leaders_change_nothing(runs: Runs, truth: dict, layout: str) -> None:
    found = runs.result(layout, "fp64", "untied", "dealt")
    assert found["held"] == [2, 2], "one replica drew all four"
    check_fp64(differences(found, truth["fp64", "untied"]))


@pytest.mark.parametrize("layout", SHARING)
def test_prompts_repeated_and_every_pass_made_change_nothing(runs: Runs, truth: dict, layout: str) -> None:
    check_fp64(differences(runs.result(layout, "fp64", "untied", "repeated"), truth["fp64", "untied"]))


def check_fp64(found: dict[str, float]) -> None:
    assert found["log_prob"] <= 1e-12, found
    assert found["loss"] <= 1e-12, found
    assert found["gradient"] <= 1e-12, found
    assert found["weight"] <= 1e-10, found
    # Megatron accumulates the norm in fp32 whatever the gradients' type.
    assert found["norm"] <= 1e-6, found


@pytest.mark.parametrize("choice", METHODS)
@pytest.mark.parametrize("layout", METHOD_LAYOUTS[1:])
def test_a_method_learns_the_same_in_every_layout(runs: Runs, layout: str, choice: str) -> None:
    found, expected = runs.of_method(layout, choice), runs.of_method("tp1", choice)
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-12)
    assert found["norms_of_parts"] == pytest.approx(expected["norms_of_parts"], rel=1e-6)
    for name, gradient in expected["gradients"].items():
        assert float((found["gradients"][name] - gradient).abs().max()) <= 1e-12, name
    for name, weight in expected["weights"].items():
        assert float((found["weights"][name] - weight).abs().max()) <= 1e-10, name


def test_methods_learn_different_things(runs: Runs) -> None:
    """The comparison of layouts could not fail otherwise."""
    weights = [runs.of_method("tp1", choice)["weights"]["model.norm.weight"] for choice in METHODS]
    for number, weight in enumerate(weights):
        assert all(not torch.allclose(weight, other, atol=1e-6) for other in weights[:number])


@pytest.fixture(scope="module")
def controls(runs: Runs) -> dict[str, dict]:
    """Runs that are wrong on purpose."""
    untied, root = runs.folders["untied"], runs.root
    wrong = {
        "rotary_base": save_tiny(root / "rotary", family="qwen2", tie=False, rope_theta=1e6),
        "gate_up_swapped": save_tiny(root / "swapped", family="qwen2", tie=False, swap_gate_up=True),
    }
    jobs = [job("tp1", FP32, folder, root / f"{name}.pt") for name, folder in wrong.items()]
    mean = {"aggregation": "response_mean"}
    jobs.append(job("tp1", FP32, untied, root / "aggregation.pt", method={"grpo": mean}))
    jobs.append(job("tp1", FP32, untied, root / "minibatches.pt", minibatches=1))
    launch(jobs, 1, root)
    return {
        name: torch.load(root / f"{name}.pt", weights_only=True)
        for name in (*wrong, "aggregation", "minibatches")
    }


@pytest.mark.parametrize("name", ["rotary_base", "gate_up_swapped"])
def test_a_wrong_model_is_seen(controls: dict, truth: dict, name: str) -> None:
    assert differences(controls[name], truth["fp32", "untied"])["log_prob"] > 1e-2


@pytest.mark.parametrize("name", ["aggregation", "minibatches"])
def test_a_wrong_update_is_seen(controls: dict, truth: dict, name: str) -> None:
    assert differences(controls[name], truth["fp32", "untied"])["weight"] > 1e-4
