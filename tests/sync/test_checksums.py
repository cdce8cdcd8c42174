"""The checksums expected of a server are those of the memory that it keeps."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.weight_server import WeightServer
from torch import Tensor

from megaent.sync.card_digest import card_digest
from megaent.sync.checksums import Checksums

Weights = Callable[..., dict[str, Tensor]]


def watched(device: str, weights: dict[str, Tensor]) -> Checksums:
    checksums = Checksums(device)
    passed = dict(checksums.watch(weights.items()))
    assert list(passed) == list(weights)
    assert all(passed[name] is weights[name] for name in weights)
    return checksums


def test_a_cpu_server_stacks_pads_and_hashes(
    weights: Weights, start_server: Callable[[], WeightServer]
) -> None:
    server = start_server()
    server.weights = weights(1)
    expected = {name: hashlib.sha256(raw).digest()[:8].hex() for name, raw in server.parameters().items()}
    checksums = watched("cpu", weights(1))
    assert checksums.expected == expected
    gate_up = "model.layers.0.mlp.gate_up_proj.weight"
    assert checksums.sources[gate_up] == tuple(
        f"model.layers.0.mlp.{part}_proj.weight" for part in ("gate", "up")
    )


def test_a_card_pads_the_vocabulary_alone(weights: Weights) -> None:
    found = watched("cuda", weights(1)).expected
    made = weights(1)
    mlp = "model.layers.0.mlp."
    assert found[mlp + "gate_up_proj.weight"] == card_digest(
        [made[mlp + "gate_proj.weight"], made[mlp + "up_proj.weight"]]
    )
    assert found[mlp + "down_proj.weight"] == card_digest([made[mlp + "down_proj.weight"]])
    padded = torch.zeros(128, 8)
    padded[:70] = made["model.embed_tokens.weight"]
    assert found["model.embed_tokens.weight"] == card_digest([padded])


def test_parts_of_a_stack_in_another_order_are_a_defect(weights: Weights) -> None:
    made = weights(1)
    swapped = {name: made[name] for name in sorted(made)}  # k before q
    with pytest.raises(AssertionError, match=r"k_proj\.bias came as part 0"):
        watched("cpu", swapped)


# ---------------------------------------------------------------- mixtures of experts

ROLES = {"qwen3_moe": ("gate_proj", "up_proj", "down_proj"), "mixtral": ("w1", "w3", "w2")}
BLOCKS = {"qwen3_moe": "mlp", "mixtral": "block_sparse_moe"}


def experts(family: str, *, inner: int) -> dict[str, Tensor]:
    """Two layers of three experts, as an actor streams them: gate, up and down of one after another."""
    generator = torch.Generator().manual_seed(4)
    shapes = ((inner, 16), (inner, 16), (16, inner))
    made = {
        f"model.layers.{layer}.{BLOCKS[family]}.experts.{expert}.{role}.weight": torch.randn(
            shape, generator=generator
        )
        for layer in range(2)
        for expert in range(3)
        for role, shape in zip(ROLES[family], shapes, strict=True)
    }
    return made | {"model.norm.weight": torch.ones(16)}


def sha(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("inner", [32, 40])
@pytest.mark.parametrize("family", ROLES)
def test_the_experts_of_a_layer_are_two_stacks(family: str, inner: int) -> None:
    """As a server on a CPU keeps them, [E, 2, I, D] and [E, D, I], I filled up to a multiple of 32."""
    weights = experts(family, inner=inner)
    found = watched("cpu", weights)
    filled = -(-inner // 32) * 32
    for layer in range(2):
        prefix = f"model.layers.{layer}.{BLOCKS[family]}.experts."
        first, second = torch.zeros(3, 2, filled, 16), torch.zeros(3, 16, filled)
        for expert in range(3):
            gate, up, down = (weights[f"{prefix}{expert}.{role}.weight"] for role in ROLES[family])
            first[expert, 0, :inner], first[expert, 1, :inner] = gate, up
            second[expert, :, :inner] = down
        assert found.expected[prefix + "w13_weight"] == sha(first)
        assert found.expected[prefix + "w2_weight"] == sha(second)
        assert found.sources[prefix + "w2_weight"][2] == f"{prefix}2.{ROLES[family][2]}.weight"
    assert len(found.expected) == 5


def test_experts_in_another_order_are_a_defect() -> None:
    made = experts("qwen3_moe", inner=32)
    with pytest.raises(
        AssertionError, match=r"1\.gate_proj\.weight came as part 0 of expert 0 of w13_weight"
    ):
        watched("cpu", {name: made[name] for name in made if ".experts.0." not in name})


# ---------------------------------------------------------------- the digest of a card

MASK = 0xFFFFFFFF


def mix(x: int) -> int:
    x = (x ^ x >> 16) * 0x85EBCA6B & MASK
    x = (x ^ x >> 13) * 0xC2B2AE35 & MASK
    return x ^ x >> 16


def card_digest_word_by_word(data: bytes) -> str:
    """The definition in unbounded integers."""
    data += bytes(-len(data) % 4)
    words = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
    seeds = (0x243F6A88, (0x243F6A88 * 0x9E3779B1 ^ 0xDEADBEEF) & MASK)
    total = 0
    for start in range(0, len(words), 8192):
        halves = [0, 0]
        for i, word in enumerate(words[start : start + 8192], start):
            for lane, (factor, bits) in enumerate(((0x27D4EB2D, 15), (0x165667B1, 13))):
                key = (i * factor + seeds[lane]) & MASK ^ (i << bits | i >> (32 - bits)) & MASK
                halves[lane] += mix(word ^ key)
        high, low = (mix((half ^ len(data)) & MASK) for half in halves)
        total = (total + (high << 32 | low)) & 0xFFFFFFFFFFFFFFFF
    total = (total ^ total >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    total = (total ^ total >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return f"{total ^ total >> 31:016x}"


@pytest.mark.parametrize("size", [1, 3, 4, 100, 8192 * 4, 8192 * 4 + 4, 8192 * 4 * 64 + 6])
def test_the_digest_of_a_card_is_what_its_definition_says(size: int) -> None:
    raw = torch.randint(0, 256, (size,), generator=torch.Generator().manual_seed(size), dtype=torch.uint8)
    assert card_digest([raw]) == card_digest_word_by_word(raw.numpy().tobytes())
    assert card_digest([raw[:1], raw[1:]]) == card_digest([raw])


THEIRS = """
import importlib.util, sys
import torch
spec = importlib.util.spec_from_file_location("theirs", sys.argv[1])
theirs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(theirs)
for size in map(int, sys.argv[2:]):
    raw = torch.randint(0, 256, (size,), generator=torch.Generator().manual_seed(size), dtype=torch.uint8)
    words = torch.cat([raw, raw.new_zeros(-size % 4)]).view(torch.uint32)
    tiles = torch.empty(-(-words.numel() // 8192), dtype=torch.uint64)
    theirs.hash_tiles32_kernel_blocked[(tiles.numel(),)](
        words, tiles, words.numel(),
        seed1=0x243F6A88, seed2=(0x243F6A88 * 0x9E3779B1 ^ 0xDEADBEEF) & 0xFFFFFFFF,
        FM_C1=theirs.FMIX32_C1, FM_C2=theirs.FMIX32_C2, POS_A=theirs.POS_C1, POS_B=theirs.POS_C2,
        TILE=8192, BLOCK=256, USE_CG=True,
    )
    print(f"{theirs._final_splitmix64(sum(map(int, tiles.tolist()))):016x}")
"""


@pytest.mark.full
def test_the_digest_of_a_card_is_the_one_of_sglangs_own_kernel(repository: Path) -> None:
    """Its Triton source, interpreted."""
    found = list(
        repository.glob(".venv-sglang/lib/python*/site-packages/sglang/kernels/ops/memory/gpu_tensor_hash.py")
    )
    if not found:
        pytest.skip("SGLang is not installed; run `./scripts/setup_sglang`")
    sizes = [1, 6, 4096, 8192 * 4 + 4]
    ended = subprocess.run(
        [sys.executable, "-c", THEIRS, str(found[0]), *map(str, sizes)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    ours = [
        card_digest(
            [torch.randint(0, 256, (size,), generator=torch.Generator().manual_seed(size), dtype=torch.uint8)]
        )
        for size in sizes
    ]
    assert ended.stdout.split() == ours
