"""The optimizer's state, shared out or whole, goes from layout to layout without a changed bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.layouts import DEFAULT, launch
from support.runs import saved_tensors
from support.tiny_hf import save_tiny

pytestmark = [pytest.mark.full, pytest.mark.both, pytest.mark.timeout(900)]

STEPS = 3
# Four processes each, and whether the state is shared out over the replicas (and context ranks).
HOPS = [
    ({}, True),
    ({"tp": 2}, True),
    ({"tp": 2, "pp": 2}, False),
    ({"pp": 2}, True),
    ({"cp": 2}, True),
    ({"pp": 2, "vpp": 2}, True),
    ({}, False),
]
FAMILIES = {"qwen2": ("float32", {"tie": True}), "qwen3": ("bfloat16", {"tie": False, "head_dim": 16})}
CASES = [("qwen2", number) for number in range(1, len(HOPS))] + [("qwen3", 1), ("qwen3", 2)]


class Saved:
    """Checkpoints under ``root``: of the first layout, after each hop, and of runs that went on."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders = {
            family: save_tiny(root / f"{family}-hf", family=family, **more)
            for family, (_, more) in FAMILIES.items()
        }
        launch(
            [job for family in FAMILIES for job in self._jobs(family)], 4, root, worker="reshard_worker.py"
        )

    def _jobs(self, family: str) -> list[dict]:
        def job(hop: tuple[dict, bool], name: str, **more: object) -> dict:
            sizes, is_shared_out = hop
            return {
                "folder": str(self.folders[family]), "dtype": FAMILIES[family][0], "layout": DEFAULT | sizes,
                "distributed_optimizer": is_shared_out, "save": str(self.model(family, name)), **more,
            }  # fmt: skip

        jobs = [job(HOPS[0], "hop-0", steps=STEPS)]
        for number in (number for of, number in CASES if of == family):
            before = str(self.model(family, f"hop-{number - 1}"))
            # Every other one has stepped before it loads.
            jobs.append(job(HOPS[number], f"hop-{number}", load=before, steps=number % 2 * 2))
        jobs.append(job(HOPS[0], "through", steps=STEPS + 2))
        jobs.append(job(HOPS[0], "resumed", load=str(self.model(family, "hop-0")), steps=1, more=2))
        jobs.append(job(HOPS[-1], "whole", steps=STEPS))
        return jobs

    def model(self, family: str, name: str) -> Path:
        return self.root / family / name / "model"

    def tensors(self, family: str, name: str) -> dict[str, torch.Tensor]:
        return saved_tensors(self.model(family, name).parent)

    def common(self, family: str, name: str) -> dict:
        return torch.load(self.model(family, name) / "common.pt", weights_only=True)["optimizer"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(tmp_path_factory.mktemp("optimizer"))


def require_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize(("family", "number"), CASES)
def test_a_hop_changes_no_bit(saved: Saved, family: str, number: int) -> None:
    require_equal(saved.tensors(family, f"hop-{number}"), saved.tensors(family, "hop-0"))
    assert saved.common(family, f"hop-{number}") == {"state": {"common_step": STEPS}}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_resumed_optimizer_ends_where_an_uninterrupted_one_does(saved: Saved, family: str) -> None:
    require_equal(saved.tensors(family, "resumed"), saved.tensors(family, "through"))
    assert saved.common(family, "resumed") == {"state": {"common_step": STEPS + 2}}


@pytest.mark.parametrize("family", FAMILIES)
def test_state_shared_out_is_the_state_held_whole(saved: Saved, family: str) -> None:
    found, expected = saved.tensors(family, "hop-0"), saved.tensors(family, "whole")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        # torch's fused kernel rounds the last few elements of a tensor otherwise, and pieces end elsewhere.
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-8)


def test_the_state_is_that_of_plain_adam(saved: Saved) -> None:
    name = "model.layers.2.mlp.down_proj.weight"
    weight = load_file(saved.folders["qwen2"] / "model.safetensors")[name].double().requires_grad_()
    adam = torch.optim.AdamW([weight], lr=1e-2, weight_decay=0.1)
    for _ in range(STEPS):
        weight.grad = torch.cos(weight.detach() * 50.0)
        adam.step()
    found = saved.tensors("qwen2", "hop-0")
    key = "decoder.layers.mlp.linear_fc2.weight"
    for moment in ("exp_avg", "exp_avg_sq"):
        expected = adam.state[weight][moment].float()
        torch.testing.assert_close(
            found[f"optimizer.state.{moment}.{key}"][2], expected, rtol=1e-5, atol=1e-6
        )
    torch.testing.assert_close(found[key][2], weight.detach().float(), rtol=1e-5, atol=1e-6)
