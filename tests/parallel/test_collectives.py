"""Collectives of a step by kind, number and bytes, 1 to 8 ranks, against the formulas of docs/fleet.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.layouts import DEFAULT, EXPERT_LAYOUTS, GROUPS, LAYOUTS
from support.plain_lm import PlainResponse
from support.plain_router import RoutedModel
from support.tiny_hf import save_tiny

pytestmark = [pytest.mark.full, pytest.mark.timeout(400)]

LAYERS, HIDDEN, KEYS, WORD = 4, 64, 32, 4  # of the tiny model in fp32; keys of all key/value heads
STEP = [GROUPS[i % 4] for i in range(8)]
TOKENS = sum(len(g["prompt"]) + len(r) - 1 for g in STEP for r in g["responses"])  # read, by one replica
PADDED = sum(-(-(len(g["prompt"]) + len(r) - 1) // 4) * 4 for g in STEP for r in g["responses"])  # cp 2
PREDICTED = sum(len(r) for g in STEP for r in g["responses"])
HIDDEN_STATES = TOKENS * HIDDEN * WORD
WORLDS = {
    1: ["dp"],
    2: ["dp", "dp_do", "tp2", "tp2_sp", "pp2", "cp2"],
    4: ["dp", "dp_do", "dp2_tp2_sp", "dp2_pp2", "dp2_cp2", "tp2_pp2_sp", "tp2_cp2_sp"],
    8: ["dp", "dp_do"],
}
MIXTURE = {
    "family": "qwen3_moe", "tie": False, "head_dim": 16, "moe_intermediate_size": 48, "num_experts": 8,
    "num_experts_per_tok": 3, "norm_topk_prob": False, "num_hidden_layers": 2,
}  # fmt: skip
MIXTURES = {2: ["ep2", "tp2_ep2", "tp2_etp2"], 4: ["ep4"]}
MIXED_LAYERS, CHOSEN, EXPERTS = 2, 3, 8
PAIR = HIDDEN * WORD + WORD  # bytes that go to an expert for each token: its hidden state and its weight
REPLICAS = [(world, name) for world in (2, 4, 8) for name in ("dp", "dp_do")]


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict]:
    root = tmp_path_factory.mktemp("collectives")
    dense = save_tiny(root / "model", family="qwen2", tie=False)
    mixture = save_tiny(root / "mixture", **MIXTURE)
    layouts = LAYOUTS | EXPERT_LAYOUTS
    common = {"holders": list(range(8)), "groups": STEP}
    jobs = {
        world: [
            common
            | {
                "name": name,
                "folder": str(dense if name in names else mixture),
                "layout": DEFAULT | layouts.get(name, (0, {}))[1],
                "distributed_optimizer": name == "dp_do",
            }
            for name in [*names, *MIXTURES.get(world, [])]
        ]
        for world, names in WORLDS.items()
    }
    file = root / "jobs.json"
    file.write_text(json.dumps(jobs))
    tests = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH", "")]))
    worker = Path(tests) / "support" / "collectives_worker.py"
    outcome = subprocess.run(
        [sys.executable, str(worker), str(file)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "TORCHDYNAMO_DISABLE": "1"},
        capture_output=True,
        text=True,
        timeout=350,
    )
    assert outcome.returncode == 0, outcome.stderr[-4000:]
    return {world: json.loads((root / f"{world}.json").read_text()) for world in WORLDS}


def test_one_rank_sends_nothing(counted: dict[int, dict]) -> None:
    found = counted[1]["dp"]
    assert all(found[verb] == {} for verb in ("deal", "share", "entries", "score", "estimate"))
    assert sum(size for _, size in found["update"].values()) < 4 * found["parameters"] + 200


@pytest.mark.parametrize(("world", "name"), REPLICAS)
def test_replicas_exchange_as_often_however_many_they_are(
    counted: dict[int, dict], world: int, name: str
) -> None:
    found = counted[world][name]
    assert {kind: count for kind, (count, _) in found["deal"].items()} == {"allgather": 2, "alltoall_base": 2}
    assert {kind: count for kind, (count, _) in found["entries"].items()} == {"allgather": 2}
    assert found["share"] == found["score"] == {}
    assert found["estimate"]["allreduce"] == counted[2]["dp"]["estimate"]["allreduce"]
    assert found["update"]["allreduce"] == counted[2]["dp"]["update"]["allreduce"]
    assert found["update"]["allreduce"][1] < 100


@pytest.mark.parametrize(("world", "name"), REPLICAS)
def test_gradients_and_weights_travel_once(counted: dict[int, dict], world: int, name: str) -> None:
    found = counted[world][name]
    size = WORD * found["parameters"]
    shared_out = WORD * -(-found["parameters"] // 128) * 128  # Megatron-Core pads what it divides
    expected = {
        "dp": {"allreduce_coalesced": [1, size]},
        "dp_do": {
            "reduce_scatter_tensor_coalesced": [1, shared_out],
            "allgather_into_tensor_coalesced": [1, shared_out],
        },
    }[name]
    assert {kind: value for kind, value in found["update"].items() if kind != "allreduce"} == expected


def test_no_leader_is_sent_the_whole_step(counted: dict[int, dict]) -> None:
    received = {world: counted[world]["dp"]["deal"]["alltoall_base"][1] for world in (2, 4, 8)}
    assert received[8] < received[4] < received[2]


def test_tensor_ranks_sum_two_hidden_states_a_layer(counted: dict[int, dict]) -> None:
    found = counted[2]["tp2"]
    passes = 2 * LAYERS + 1  # attention, feed-forward, and the embedding or the head
    assert found["score"]["allreduce"] == [passes, passes * HIDDEN_STATES]
    count, size = found["update"]["allreduce"]
    assert (count - 3, size - size % HIDDEN_STATES) == (2 * passes, 2 * passes * HIDDEN_STATES)
    for verb in ("score", "update"):  # of each token and rank: five numbers of its part of the vocabulary
        assert found[verb]["allgather"] == [1, 2 * 5 * WORD * PREDICTED]


def test_sequence_parallel_gathers_and_scatters_them(counted: dict[int, dict]) -> None:
    found = counted[2]["tp2_sp"]
    passes = 2 * LAYERS + 1
    assert found["score"]["allgather_base"] == [passes, passes * HIDDEN_STATES]
    assert found["score"]["reduce_scatter_base"] == [passes, passes * HIDDEN_STATES]
    gathered = 2 * passes + 2 * LAYERS  # and once more for the gradient of each weight
    assert found["update"]["allgather_base"] == [gathered, gathered * HIDDEN_STATES]
    assert found["update"]["reduce_scatter_base"] == [2 * passes, 2 * passes * HIDDEN_STATES]


def test_stages_hand_on_one_hidden_state_and_its_shape(counted: dict[int, dict]) -> None:
    shape = 3 * 8
    found = counted[2]["pp2"]
    assert found["score"]["send"] == [2, shape + HIDDEN_STATES]
    assert found["update"]["send"] == found["update"]["recv"] == [2, shape + HIDDEN_STATES]
    assert found["score"]["broadcast"] == [1, 3 * WORD * PREDICTED]


def test_context_ranks_gather_keys_and_values(counted: dict[int, dict]) -> None:
    found = counted[2]["cp2"]
    gathered = [2 * LAYERS, 2 * LAYERS * PADDED * KEYS * WORD]
    assert found["score"]["allgather_base"] == gathered
    assert found["update"]["allgather_base"] == found["update"]["reduce_scatter_base"] == gathered
    assert found["score"]["allreduce"] == [1, 3 * WORD * PREDICTED]


# ---------------------------------------------------------------- layouts of two kinds


def test_replicas_of_a_layout_count_their_own_tokens(counted: dict[int, dict]) -> None:
    """The formulas of one replica hold with the tokens of its share, and its gradients travel once more."""
    passes = 2 * LAYERS + 1
    for name in ("dp2_tp2_sp", "dp2_pp2", "dp2_cp2"):
        found = counted[4][name]
        assert found["update"]["allreduce_coalesced"] == [1, WORD * found["parameters"]], name
        assert found["read"] < TOKENS, name
    found = counted[4]["dp2_tp2_sp"]
    states = found["read"] * HIDDEN * WORD
    assert found["score"]["allgather_base"] == [passes, passes * states]
    assert found["score"]["reduce_scatter_base"] == [passes, passes * states]
    assert found["update"]["allgather_base"] == [6 * LAYERS + 2, (6 * LAYERS + 2) * states]
    assert found["update"]["reduce_scatter_base"] == [2 * passes, 2 * passes * states]
    found = counted[4]["dp2_pp2"]
    assert found["score"]["send"] == [2, 3 * 8 + found["read"] * HIDDEN * WORD]
    count, size = counted[4]["dp2_cp2"]["score"]["allgather_base"]
    assert (count, size % (2 * LAYERS * KEYS * WORD), size < 2 * LAYERS * PADDED * KEYS * WORD) == (
        2 * LAYERS, 0, True
    )  # fmt: skip


def test_the_first_of_two_stages_has_the_gathers_of_its_layers(counted: dict[int, dict]) -> None:
    """And those of the embedding; its ranks hand on their part of the sequence."""
    found, layers = counted[4]["tp2_pp2_sp"], LAYERS // 2
    assert found["score"]["allgather_base"] == [2 * layers, 2 * layers * HIDDEN_STATES]
    assert found["score"]["reduce_scatter_base"] == [2 * layers + 1, (2 * layers + 1) * HIDDEN_STATES]
    assert found["score"]["send"] == [2, 3 * 8 + HIDDEN_STATES // 2]
    assert found["update"]["allgather_base"] == [6 * layers + 1, (6 * layers + 1) * HIDDEN_STATES]
    assert found["update"]["reduce_scatter_base"] == [4 * layers + 1, (4 * layers + 1) * HIDDEN_STATES]


def test_context_ranks_of_tensor_ranks_have_both_kinds_on_half_the_tokens_and_keys(
    counted: dict[int, dict],
) -> None:
    found = counted[4]["tp2_cp2_sp"]
    states, keys = PADDED // 2 * HIDDEN * WORD, PADDED * KEYS // 2 * WORD
    of_keys, passes = 2 * LAYERS, 2 * LAYERS + 1
    assert found["score"]["allgather_base"] == [passes + of_keys, passes * states + of_keys * keys]
    assert found["score"]["reduce_scatter_base"] == [passes, passes * states]
    gathers = 6 * LAYERS + 2
    assert found["update"]["allgather_base"] == [gathers + of_keys, gathers * states + of_keys * keys]
    assert found["update"]["reduce_scatter_base"] == [
        2 * passes + of_keys,
        2 * passes * states + of_keys * keys,
    ]


# ---------------------------------------------------------------- experts


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """[L, E] of each layer and expert, the tokens of the step that go to it: every token that is read."""
    model = RoutedModel.load(save_tiny(tmp_path_factory.mktemp("routed"), **MIXTURE), torch.float64)
    count_LE = torch.zeros(MIXED_LAYERS, EXPERTS, dtype=torch.int64)
    for group in STEP:
        for tokens in group["responses"]:
            whole = [*group["prompt"], *tokens]
            response = PlainResponse(prompt=whole[:1], tokens=whole[1:], reward=0.0, group=0)
            for layer, x_NE in enumerate(model.scores(response).detach()):
                count_LE[layer] += torch.bincount(x_NE.topk(CHOSEN).indices.flatten(), minlength=EXPERTS)
    assert int(count_LE.sum()) == MIXED_LAYERS * CHOSEN * TOKENS
    return count_LE


@pytest.mark.parametrize(("world", "name"), [(2, "ep2"), (2, "tp2_ep2"), (4, "ep4")])
def test_each_token_goes_to_its_experts_and_back(
    counted: dict[int, dict], routed: torch.Tensor, world: int, name: str
) -> None:
    """There with its weight, back without; a rank sends what it reads, gets what its experts are given."""
    found = counted[world][name]
    mine = found["read"] // (2 if name == "tp2_ep2" else 1)
    to_rank_0_L = routed[:, : EXPERTS // world].sum(1).tolist()
    rows = sum(max(mine * CHOSEN, received) for received in to_rank_0_L)
    there_and_back = [3 * MIXED_LAYERS, rows * (PAIR + HIDDEN * WORD)]
    assert found["score"]["alltoall_base"] == there_and_back
    assert found["update"]["alltoall_base"] == [2 * value for value in there_and_back]


@pytest.mark.parametrize(("world", "name"), [(2, "ep2"), (4, "ep4")])
def test_expert_ranks_first_tell_how_many_come(counted: dict[int, dict], world: int, name: str) -> None:
    found = counted[world][name]
    told = [MIXED_LAYERS, MIXED_LAYERS * world * EXPERTS * 8]
    assert found["score"]["allgather_base"] == found["update"]["allgather_base"] == told
    load, packs = 8 * MIXED_LAYERS * EXPERTS, 8
    assert found["score"]["allreduce"] == [2, load + packs]
    assert found["update"]["allreduce_coalesced"] == [2, WORD * found["parameters"]]


def test_a_layer_of_experts_leaves_sequence_parallel_to_its_attention(counted: dict[int, dict]) -> None:
    found, passes, told = counted[2]["tp2_ep2"], MIXED_LAYERS + 1, MIXED_LAYERS * 2 * EXPERTS * 8
    assert found["score"]["allgather_base"] == [passes + MIXED_LAYERS, passes * HIDDEN_STATES + told]
    assert found["score"]["reduce_scatter_base"] == [passes, passes * HIDDEN_STATES]
    gathers = 3 * MIXED_LAYERS + 2
    assert found["update"]["allgather_base"] == [gathers + MIXED_LAYERS, gathers * HIDDEN_STATES + told]
    assert found["update"]["reduce_scatter_base"] == [2 * passes, 2 * passes * HIDDEN_STATES]


def test_parts_of_experts_are_all_given_every_token(counted: dict[int, dict]) -> None:
    found, statistics = counted[2]["tp2_etp2"], 2 * 5 * WORD * PREDICTED
    rows = TOKENS * CHOSEN
    given, back = MIXED_LAYERS * rows * PAIR, MIXED_LAYERS * rows * HIDDEN * WORD
    assert found["score"]["allgather"] == [1 + 2 * MIXED_LAYERS, statistics + given]
    assert found["score"]["reduce_scatter"] == [MIXED_LAYERS, back]
    assert found["update"]["allgather"] == [1 + 3 * MIXED_LAYERS, statistics + given + back]
    assert found["update"]["reduce_scatter"] == [3 * MIXED_LAYERS, given + back]
