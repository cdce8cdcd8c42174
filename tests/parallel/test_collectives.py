"""Collectives of a step by kind, number and bytes, 1 to 8 ranks, against the formulas of docs/fleet.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.layouts import DEFAULT, GROUPS, LAYOUTS
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
    4: ["dp", "dp_do"],
    8: ["dp", "dp_do"],
}
REPLICAS = [(world, name) for world in (2, 4, 8) for name in ("dp", "dp_do")]


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict]:
    root = tmp_path_factory.mktemp("collectives")
    folder = save_tiny(root / "model", family="qwen2", tie=False)
    common = {"holders": list(range(8)), "groups": STEP, "folder": str(folder)}
    jobs = {
        world: [
            common
            | {
                "name": name,
                "layout": DEFAULT | LAYOUTS.get(name, (0, {}))[1],
                "distributed_optimizer": name == "dp_do",
            }
            for name in names
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
