"""Parameters, gradients and optimizer state of a plan against what the actor holds, in every layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.layouts import DEFAULT, EVERY, EXPERT_LAYOUTS, LAYOUTS, SHARED_OUT, launch
from support.tiny_hf import save_tiny

from megaent.plan.layout import Layout
from megaent.plan.memory import state_bytes
from megaent.plan.parameters import stage_parameters
from megaent.plan.shapes import folder_shape
from megaent.plan.work import Work

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

WORK = Work(tokens=1, context=1, microbatches=1)
WEIGHT_BYTES = {"float32": 4, "bfloat16": 2}
SMOLLM2 = {
    "family": "llama", "tie": True, "vocab_size": 49152, "hidden_size": 576, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536,
}  # fmt: skip
KINDS = (("qwen2", "float32"), ("qwen3", "bfloat16"))
# A plan gives every stage as many layers.
EVEN = [name for name, (_, sizes) in LAYOUTS.items() if "first_layers" not in sizes]
EXPERTS = {
    "family": "qwen3_moe", "tie": False, "head_dim": 16, "moe_intermediate_size": 48, "num_experts": 8,
    "num_experts_per_tok": 3, "num_hidden_layers": 2,
}  # fmt: skip
SHARED = {"dp2_ep2_do": EXPERT_LAYOUTS["dp2_ep2"]} | SHARED_OUT
KNOWN = EXPERT_LAYOUTS | EVERY | SHARED
PADDED = 2 * 128  # Megatron-Core rounds each of two buffers up to a multiple of 128 for each owner
# A plan divides no tensor of one expert.
WITH_EXPERTS = [name for name in EXPERT_LAYOUTS if "etp" not in name]
CASES = [
    *((name, *KINDS[number % 2]) for number, name in enumerate(EVEN)),
    ("pp2", "smollm2", "float32"),
    ("dp2", "smollm2", "bfloat16"),
    *((name, "experts", "float32") for name in WITH_EXPERTS),
    ("dp2_ep2", "experts", "bfloat16"),
    *((name, "experts", dtype) for name in ("dp2_ep2_do", "dp2_do") for dtype in WEIGHT_BYTES),
    *((name, *KINDS[number % 2]) for number, name in enumerate(SHARED_OUT)),
]


class Held:
    """Each world size is started once for all its cases."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders = {
            "qwen2": save_tiny(root / "qwen2", family="qwen2", tie=True),
            "qwen3": save_tiny(root / "qwen3", family="qwen3", tie=False, head_dim=16),
            "smollm2": save_tiny(root / "smollm2", **SMOLLM2),
            "experts": save_tiny(root / "experts", **EXPERTS),
        }
        self._started: set[int] = set()

    def ranks(self, name: str, model: str, dtype: str) -> list[dict[str, int]]:
        world = KNOWN[name][0]
        if world not in self._started:
            jobs = [self._job(*case) for case in CASES if KNOWN[case[0]][0] == world]
            launch(jobs, world, self.root, worker="memory_worker.py")
            self._started.add(world)
        return json.loads(self._out(name, model, dtype).read_text())

    def _job(self, name: str, model: str, dtype: str) -> dict:
        return {
            "layout": DEFAULT | KNOWN[name][1], "folder": str(self.folders[model]), "dtype": dtype,
            "out": str(self._out(name, model, dtype)), "distributed_optimizer": name in SHARED,
        }  # fmt: skip

    def _out(self, name: str, model: str, dtype: str) -> Path:
        return self.root / f"{name}-{model}-{dtype}.json"


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Held:
    return Held(tmp_path_factory.mktemp("memory"))


@pytest.mark.parametrize(("name", "model", "dtype"), CASES)
def test_every_rank_holds_what_the_plan_counts(held: Held, name: str, model: str, dtype: str) -> None:
    layout, shape = layout_of(name), folder_shape(held.folders[model])
    for rank in held.ranks(name, model, dtype):
        parameters = stage_parameters(shape, layout, rank["stage"])
        weights, gradients, optimizer = state_bytes(
            parameters, layout, WORK, weight_bytes=WEIGHT_BYTES[dtype]
        )
        assert weights == rank["weights"]
        if name not in SHARED:
            assert (gradients, optimizer) == (rank["gradients"], rank["optimizer"]), rank
            continue
        owners = max(share.owners for share in parameters.shares(layout))
        assert 0 <= rank["gradients"] - gradients < 4 * PADDED * owners, rank
        assert abs(rank["optimizer"] - optimizer) < 12 * PADDED, rank


def layout_of(name: str) -> Layout:
    world, sizes = KNOWN[name]
    tp, pp, cp, vpp, ep = (int(sizes.get(key) or 1) for key in ("tp", "pp", "cp", "vpp", "ep"))
    sharding = "optimizer" if name in SHARED else "replicated"
    return Layout(tp=tp, pp=pp, cp=cp, vpp=vpp, ep=ep, dp=world // (tp * pp * cp), sharding=sharding)
