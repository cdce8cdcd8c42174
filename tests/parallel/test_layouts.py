"""The actor in every layout against an independent GRPO in plain torch: log-probs, loss, gradients."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.plain_lm import PlainModel, PlainResponse, PlainResult, plain_grpo
from support.tiny_hf import save_tiny

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

LAYOUTS = {
    "tp1": (1, {}),
    "tp2": (2, {"tp": 2}),
    "tp2_sp": (2, {"tp": 2, "sequence_parallel": True}),
    "pp2": (2, {"pp": 2}),
    "pp2_vpp2": (2, {"pp": 2, "vpp": 2}),
    "cp2": (2, {"cp": 2}),
    "dp2": (2, {}),
    "tp2_pp2": (4, {"tp": 2, "pp": 2}),
    "tp2_pp2_sp": (4, {"tp": 2, "pp": 2, "sequence_parallel": True}),
    "tp2_cp2_sp": (4, {"tp": 2, "cp": 2, "sequence_parallel": True}),
    "pp2_cp2": (4, {"pp": 2, "cp": 2}),
    "dp2_tp2_sp": (4, {"tp": 2, "sequence_parallel": True}),
    "dp2_pp2": (4, {"pp": 2}),
    "dp2_cp2": (4, {"cp": 2}),
}
DEFAULT = {"tp": 1, "pp": 1, "vpp": None, "cp": 1, "sequence_parallel": False}
EVEN, UNEQUAL, EMPTY = [0, 1, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]


def rollouts() -> list[dict]:
    """Four groups of three responses of unequal lengths; one response of a single token."""
    generator = torch.Generator().manual_seed(11)

    def tokens(count: int) -> list[int]:
        return torch.randint(0, 100, (count,), generator=generator).tolist()

    groups = [
        {
            "prompt": tokens(3 + i),
            "responses": [tokens(4 + 5 * j + i) for j in range(3)],
            "rewards": [1.0, 0.0, 0.25 * i],
        }
        for i in range(4)
    ]
    groups[2]["responses"][1] = tokens(1)
    return groups


GROUPS = rollouts()
FP32 = {"dtype": "float32", "steps": 3, "minibatches": 2, "lr": 1e-3, "eps": 1e-5, "clip_grad": 1.0}
FP64 = {"dtype": "float64", "steps": 1, "minibatches": 2, "lr": 1e-3, "eps": 1e-8, "clip_grad": 0.0}
COMMON = {"groups": GROUPS, "temperature": 0.8, "microbatch_tokens": 40}


def job(
    name: str, precision: dict, folder: Path, out: Path, *, holders: list[int] = EVEN, **more: object
) -> dict:
    layout = DEFAULT | LAYOUTS[name][1]
    return (
        COMMON
        | precision
        | {"layout": layout, "holders": holders, "folder": str(folder), "out": str(out)}
        | more
    )


def launch(jobs: list[dict], num_processes: int, folder: Path) -> None:
    file = folder / "jobs.json"
    file.write_text(json.dumps(jobs))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(num_processes),
    ]
    done = subprocess.run(
        [*command, str(Path(__file__).with_name("actor_worker.py")), str(file)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=_environment(),
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]


def _environment() -> dict[str, str]:
    import os

    return os.environ | {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1", "PYTHONWARNINGS": "ignore"}


class Runs:
    """Each world size is started once and runs all its layouts, both precisions and both models."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders = {
            "untied": save_tiny(root / "untied", family="qwen2", tie=False),
            "tied": save_tiny(root / "tied", family="qwen2", tie=True),
        }
        self._started: set[int] = set()

    def result(self, layout: str, precision: str, model: str, variant: str = "even") -> dict:
        size = LAYOUTS[layout][0]
        if size not in self._started:
            self._start(size)
        return torch.load(self._out(layout, precision, model, variant), weights_only=True)

    def _start(self, size: int) -> None:
        jobs = [
            job(name, precision, folder, self._out(name, key, model, "even"))
            for name, (world, _) in LAYOUTS.items()
            if world == size
            for model, folder in self.folders.items()
            for key, precision in (("fp32", FP32), ("fp64", FP64))
        ]
        for name, (world, _) in LAYOUTS.items():
            if world == size and name.startswith("dp2"):
                for variant, holders in (("unequal", UNEQUAL), ("empty", EMPTY)):
                    out = self._out(name, "fp64", "untied", variant)
                    jobs.append(job(name, FP64, self.folders["untied"], out, holders=holders))
        launch(jobs, size, self.root)
        self._started.add(size)

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


def reference(folder: Path, precision: dict) -> PlainResult:
    responses = [
        PlainResponse(prompt=group["prompt"], tokens=tokens, reward=reward, group=index)
        for index, group in enumerate(GROUPS)
        for tokens, reward in zip(group["responses"], group["rewards"], strict=True)
    ]
    # The truth of fp32 runs is computed in fp64, so that its own rounding does not count.
    model = PlainModel.load(folder, torch.float64)
    return plain_grpo(
        model,
        responses,
        steps=precision["steps"],
        minibatches=precision["minibatches"],
        temperature=COMMON["temperature"],
        lr=precision["lr"],
        eps=precision["eps"],
        clip_grad=precision["clip_grad"],
    )


def differences(found: dict, truth: PlainResult) -> dict[str, float]:
    assert set(found["weights"]) == set(truth.weights)
    return {
        "log_prob": max(
            float((a - b).abs().max()) for a, b in zip(found["log_prob"], truth.log_prob, strict=True)
        ),
        "entropy": max(
            float((a - b).abs().max()) for a, b in zip(found["entropy"], truth.entropy, strict=True)
        ),
        "loss": max(abs(a - b) for a, b in zip(found["loss"], truth.loss, strict=True)),
        "norm": max(abs(a / b - 1) for a, b in zip(found["norm"], truth.norm, strict=True)),
        "gradient": max(float((found["gradients"][n] - g).abs().max()) for n, g in truth.gradients.items()),
        "weight": max(float((found["weights"][n] - w).abs().max()) for n, w in truth.weights.items()),
    }


@pytest.mark.parametrize("model", ["untied", "tied"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_three_steps_in_fp32_follow_plain_torch(runs: Runs, truth: dict, layout: str, model: str) -> None:
    found = differences(runs.result(layout, "fp32", model), truth["fp32", model])
    assert found["log_prob"] <= 1e-5, found
    assert found["entropy"] <= 1e-5, found
    assert found["weight"] <= 1e-5, found
    assert found["norm"] <= 1e-5, found


@pytest.mark.parametrize("model", ["untied", "tied"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_step_in_fp64_equals_plain_torch(runs: Runs, truth: dict, layout: str, model: str) -> None:
    check_fp64(differences(runs.result(layout, "fp64", model), truth["fp64", model]))


@pytest.mark.parametrize("variant", ["unequal", "empty"])
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name.startswith("dp2")])
def test_unequal_and_empty_leaders_change_nothing(runs: Runs, truth: dict, layout: str, variant: str) -> None:
    check_fp64(differences(runs.result(layout, "fp64", "untied", variant), truth["fp64", "untied"]))


def check_fp64(found: dict[str, float]) -> None:
    assert found["log_prob"] <= 1e-12, found
    assert found["loss"] <= 1e-12, found
    assert found["gradient"] <= 1e-12, found
    assert found["weight"] <= 1e-10, found
    # Megatron accumulates the norm in fp32 whatever the gradients' type.
    assert found["norm"] <= 1e-6, found


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
    jobs.append(job("tp1", FP32, untied, root / "aggregation.pt", method=mean))
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
