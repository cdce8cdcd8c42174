"""Losses of a mixture's routers: those of plain torch in every kind of layout and split of the batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.layouts import EXPERT_LAYOUTS, FP64, GROUPS, UNEQUAL, differences, job, launch, reference
from support.plain_lm import PlainResponse, PlainResult
from support.plain_router import PlainRouterLosses, RoutedModel
from support.tiny_hf import save_tiny
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

pytestmark = [pytest.mark.full, pytest.mark.timeout(1000)]

MODEL = {
    "family": "qwen3_moe", "tie": True, "head_dim": 16, "moe_intermediate_size": 48, "num_experts": 8,
    "num_experts_per_tok": 3, "norm_topk_prob": False, "num_hidden_layers": 2,
}  # fmt: skip
COEFS = {"balance_coef": 0.05, "z_coef": 0.01}
WHOLE = {"microbatch_tokens": 4000, "share_prompts": False}
SPLITS = {  # of the batch: layout, and what is not as in every other job
    "small_packs": ("tp1", {}),
    "one_pack": ("tp1", WHOLE),
    "recomputed": ("tp1", {"recompute": {"granularity": "full"}}),
    "router_recomputed": ("tp1", {"recompute": {"granularity": "selective", "modules": ["moe"]}}),
    "experts": ("ep2", {}),
    "unequal_replicas": ("ep2", {"holders": UNEQUAL}),
    "sequence": ("tp2_ep2", {}),
    "expert_tensors": ("tp2_etp2", {}),
    "context": ("cp2_ep2", {}),
    "shared_out": ("dp2_ep2", {"distributed_optimizer": True}),
    "stages": ("pp2_ep2", {}),
    "all": ("dp2_tp2_etp2", {}),
}
ONE_EACH = {"balance_only": {"balance_coef": 0.05}, "z_only": {"z_coef": 0.01}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"), **MODEL)


@pytest.fixture(scope="module")
def found(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    root = tmp_path_factory.mktemp("router")
    jobs = {
        name: (layout, job(layout, FP64, folder, root / f"{name}.pt", **{"router": COEFS} | more))
        for name, (layout, more) in SPLITS.items()
    }
    for name, coefs in ONE_EACH.items():
        jobs[name] = ("tp1", job("tp1", FP64, folder, root / f"{name}.pt", router=coefs))
    for size in (1, 2, 4):
        launch([j for layout, j in jobs.values() if EXPERT_LAYOUTS[layout][0] == size], size, root)
    return {name: torch.load(root / f"{name}.pt", weights_only=True) for name in jobs}


def truth_of(folder: Path, losses: PlainRouterLosses) -> PlainResult:
    return reference(folder, FP64, kind=RoutedModel, extra=losses)


@pytest.fixture(scope="module")
def losses() -> PlainRouterLosses:
    return PlainRouterLosses(**COEFS)


@pytest.fixture(scope="module")
def truth(folder: Path, losses: PlainRouterLosses) -> PlainResult:
    return truth_of(folder, losses)


@pytest.mark.parametrize("split", SPLITS)
def test_gradients_equal_plain_torch(found: dict, truth: PlainResult, split: str) -> None:
    check(differences(found[split], truth))


@pytest.mark.parametrize("name", ONE_EACH)
def test_each_loss_alone_equals_plain_torch(found: dict, folder: Path, name: str) -> None:
    alone = PlainRouterLosses(**{"balance_coef": 0.0, "z_coef": 0.0} | ONE_EACH[name])
    check(differences(found[name], truth_of(folder, alone)))


def check(difference: dict[str, float]) -> None:
    assert difference["log_prob"] <= 1e-12, difference
    assert difference["loss"] <= 1e-12, difference
    assert difference["gradient"] <= 1e-12, difference
    assert difference["weight"] <= 1e-10, difference


@pytest.mark.parametrize("split", SPLITS)
def test_the_metrics_are_means_of_layers_and_optimizer_steps(
    found: dict, truth: PlainResult, losses: PlainRouterLosses, split: str
) -> None:
    (metrics,) = found[split]["experts"]
    assert metrics["experts/balance_loss"] == pytest.approx(sum(losses.balance) / 2, abs=1e-12)
    assert metrics["experts/z_loss"] == pytest.approx(sum(losses.z) / 2, abs=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [COEFS | {"balance_coef": 0.0}, COEFS | {"z_coef": 0.0}, COEFS | {"share": "response"}],
    ids=["no_balance", "no_z", "shares_of_a_microbatch"],
)
def test_another_loss_is_seen(found: dict, folder: Path, wrong: dict) -> None:
    """The comparison could not fail otherwise; Megatron-Core's own loss is of the last kind."""
    other = truth_of(folder, PlainRouterLosses(**wrong))
    assert differences(found["small_packs"], other)["gradient"] > 1e-4


def test_the_balance_is_that_of_transformers_layer_by_layer(folder: Path) -> None:
    """Which counts k choices a token for ours of 1, and takes the shares of the tokens it is given."""
    model = RoutedModel.load(folder, torch.float64)
    response = PlainResponse(prompt=[3], tokens=GROUPS[3]["responses"][2], reward=0.0, group=0)
    layers = list(model.scores(response).detach())
    theirs = [float(load_balancing_loss_func((layer,), 8, 3)) / 3 for layer in layers]
    ours = PlainRouterLosses(**COEFS)
    ours.begin(model, [response])
    ours.loss(model, [response])
    assert ours.balance == [pytest.approx(sum(theirs) / len(theirs), abs=1e-6)]
