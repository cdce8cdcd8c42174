"""Mixtures of experts in every kind of layout against an independent GRPO in plain torch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.layouts import (
    EMPTY,
    EXPERT_LAYOUTS,
    FP64,
    GROUPS,
    UNEQUAL,
    differences,
    job,
    launch,
    reference,
)
from support.plain_lm import PlainModel, PlainResult
from support.tiny_hf import save_tiny
from transformers import AutoModelForCausalLM

pytestmark = [pytest.mark.full, pytest.mark.timeout(1000)]

MODELS = {
    "qwen3_moe": {
        "family": "qwen3_moe", "tie": True, "head_dim": 16, "moe_intermediate_size": 48, "num_experts": 8,
        "num_experts_per_tok": 3, "norm_topk_prob": False, "num_hidden_layers": 2,
    },
    "mixtral": {"family": "mixtral", "tie": False, "num_local_experts": 4, "num_hidden_layers": 2,
                "intermediate_size": 96},
}  # fmt: skip
REPLICAS = [name for name in EXPERT_LAYOUTS if name in ("ep2", "dp2_tp2_ep2")]
SHARED_OUT = ("dp2_ep2", "dp2_tp2_etp2")


class Runs:
    """Each world size is started once for all its layouts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders = {name: save_tiny(root / name, **options) for name, options in MODELS.items()}
        self._started: set[int] = set()

    def result(self, layout: str, model: str, variant: str = "even") -> dict:
        size = EXPERT_LAYOUTS[layout][0]
        if size not in self._started:
            launch(self._jobs(size), size, self.root)
            self._started.add(size)
        return torch.load(self._out(layout, model, variant), weights_only=True)

    def _jobs(self, size: int) -> list[dict]:
        jobs = []
        for name, (world, _) in EXPERT_LAYOUTS.items():
            if world != size:
                continue
            for model, folder in self.folders.items():
                jobs.append(job(name, FP64, folder, self._out(name, model, "even")))
            folder = self.folders["qwen3_moe"]
            for variant, holders in (("unequal", UNEQUAL), ("empty", EMPTY)) if name in REPLICAS else ():
                out = self._out(name, "qwen3_moe", variant)
                jobs.append(job(name, FP64, folder, out, holders=holders))
            if name in SHARED_OUT:
                out = self._out(name, "qwen3_moe", "shared_out")
                jobs.append(job(name, FP64, folder, out, distributed_optimizer=True))
        return jobs

    def _out(self, layout: str, model: str, variant: str) -> Path:
        return self.root / f"{layout}-{model}-{variant}.pt"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("experts"))


@pytest.fixture(scope="module")
def truth(runs: Runs) -> dict[str, PlainResult]:
    return {name: reference(folder, FP64) for name, folder in runs.folders.items()}


def check(found: dict[str, float]) -> None:
    assert found["log_prob"] <= 1e-12, found
    assert found["loss"] <= 1e-12, found
    assert found["gradient"] <= 1e-12, found
    assert found["weight"] <= 1e-10, found


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("layout", EXPERT_LAYOUTS)
def test_one_step_equals_plain_torch(runs: Runs, truth: dict, layout: str, model: str) -> None:
    check(differences(runs.result(layout, model), truth[model]))


@pytest.mark.parametrize("variant", ["unequal", "empty"])
@pytest.mark.parametrize("layout", REPLICAS)
def test_unequal_and_empty_replicas_change_nothing(
    runs: Runs, truth: dict, layout: str, variant: str
) -> None:
    check(differences(runs.result(layout, "qwen3_moe", variant), truth["qwen3_moe"]))


@pytest.mark.parametrize("layout", SHARED_OUT)
def test_an_optimizer_shared_out_changes_nothing(runs: Runs, truth: dict, layout: str) -> None:
    check(differences(runs.result(layout, "qwen3_moe", "shared_out"), truth["qwen3_moe"]))


@pytest.mark.parametrize("model", MODELS)
def test_the_load_of_experts_is_that_of_transformers_in_every_layout(runs: Runs, model: str) -> None:
    expected = expected_load(runs.folders[model])
    assert expected["experts/busiest"] > 1.2, "an even load tests nothing"
    for layout in EXPERT_LAYOUTS:
        assert runs.result(layout, model)["experts"] == [pytest.approx(expected, abs=1e-12)], layout
    for layout, variant in [(name, kind) for name in REPLICAS for kind in ("unequal", "empty")]:
        found = runs.result(layout, "qwen3_moe", variant)["experts"]
        assert model == "mixtral" or found == [pytest.approx(expected, abs=1e-12)], (layout, variant)


def expected_load(folder: Path) -> dict[str, float]:
    """Positions that predict a response token, by layer and expert, counted without packs."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)  # its products take no fp64
    chosen: list[torch.Tensor] = []
    for group in GROUPS:
        for response in group["responses"]:
            token_1N = torch.tensor([group["prompt"] + response])
            score_LNE = torch.stack(model(token_1N, output_router_logits=True).router_logits)
            predicting_LNE = score_LNE[:, len(group["prompt"]) - 1 : -1]
            chosen.append(predicting_LNE.topk(model.config.num_experts_per_tok).indices.flatten(1))
    expert_LA = torch.cat(chosen, dim=1)
    count_LE = torch.nn.functional.one_hot(expert_LA, score_LNE.shape[2]).sum(1).double()
    busiest_L = (count_LE.amax(1) * count_LE.shape[1] / expert_LA.shape[1]).tolist()
    return {f"experts/busiest_{layer}": value for layer, value in enumerate(busiest_L)} | {
        "experts/busiest": max(busiest_L),
        "experts/unused": float((count_LE == 0).double().mean()),
    }


@pytest.mark.parametrize("model", MODELS)
def test_the_plain_model_is_that_of_transformers(runs: Runs, model: str) -> None:
    tokens = torch.arange(3, 60, 4)
    expected = AutoModelForCausalLM.from_pretrained(runs.folders[model])(tokens[None]).logits[0]
    found = PlainModel.load(runs.folders[model], torch.float64).logits(tokens)
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "wrong"),
    [("qwen3_moe", {"norm_topk_prob": True}), ("qwen3_moe", {"num_experts_per_tok": 2}),
     ("mixtral", {"num_experts_per_tok": 1 + 2})],
)  # fmt: skip
def test_another_way_of_choosing_is_seen(
    runs: Runs, truth: dict, tmp_path: Path, model: str, wrong: dict
) -> None:
    """The comparison could not fail otherwise."""
    config = runs.folders[model] / "config.json"
    changed = save_tiny(tmp_path / "wrong", **MODELS[model])
    (changed / "config.json").write_text(json.dumps(json.loads(config.read_text()) | wrong))
    other = reference(changed, FP64 | {"steps": 1})
    difference = max(
        float((a - b).abs().max()) for a, b in zip(other.log_prob, truth[model].log_prob, strict=True)
    )
    assert difference > 1e-3
