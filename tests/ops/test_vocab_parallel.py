"""Real ranks of a split vocabulary against one rank that has all of it: both ops, every quantity."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.compare import assert_as_accurate_as_torch
from support.vocab_parallel_worker import SIZE, TYPES, VOCAB, Named, both_ops, in_type
from torch import Tensor

pytestmark = pytest.mark.full

NUM_COLUMNS, NUM_TOKENS, WIDTH = 40, 33, 8  # two columns are padding
CASES = {
    "two": (21, 19),
    "three": (30, 3, 7),
    "three, one of them empty": (12, 0, 28),
    "four": (1, 9, 12, 18),
    "four, one of padding alone": (20, 12, 6, 2),
}


def draw_inputs() -> Named:
    """Small integers where they are multiplied: products are exact, so equal logits stay equal in shards."""
    rng = torch.Generator().manual_seed(3)

    def integers(*shape: int) -> Tensor:
        return torch.randint(-2, 3, shape, generator=rng).double()

    logits = (12 * torch.randn(NUM_TOKENS, NUM_COLUMNS, generator=rng)).round().double() / 4
    reference = logits + (torch.randn(NUM_TOKENS, NUM_COLUMNS, generator=rng) * 4).round().double() / 4
    target = torch.randint(VOCAB, (NUM_TOKENS,), generator=rng)
    target[5] = -100
    logits[7, :30], target[7] = -torch.inf, 37  # shards without probability in this row
    reference[8, 32:], logits[8, 32:], target[8] = -torch.inf, -torch.inf, 3
    logits[9, VOCAB:] = torch.nan
    return {
        "logits": logits,
        "reference": reference,
        "hidden": integers(NUM_TOKENS, WIDTH),
        "weight": integers(NUM_COLUMNS, WIDTH) / 2,
        "other_weight": integers(NUM_COLUMNS, WIDTH) / 2,
        "target": target,
        "weights": torch.randn(4, NUM_TOKENS, generator=rng, dtype=torch.float64),
    }


def run_ranks(folder: Path, inputs: Named) -> list[dict[str, np.ndarray]]:
    widths = {f"widths/{case}": np.array(widths) for case, widths in CASES.items()}
    np.savez(folder / "inputs.npz", **{name: value.numpy() for name, value in inputs.items()}, **widths)
    root = Path(__file__).resolve().parents[2]
    script = root / "tests" / "support" / "vocab_parallel_worker.py"
    workers = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(folder)],
            env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(SIZE)
    ]
    try:
        said = [worker.communicate(timeout=270)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0] * SIZE, said
    return [dict(np.load(folder / f"rank{rank}.npz")) for rank in range(SIZE)]


@pytest.fixture(scope="module")
def inputs() -> Named:
    return draw_inputs()


@pytest.fixture(scope="module")
def ranks(inputs: Named, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    return run_ranks(tmp_path_factory.mktemp("ranks"), inputs)


@pytest.fixture(scope="module")
def whole(inputs: Named) -> dict[str, dict[str, Named]]:
    """What one rank finds, by type and op."""
    return {name: dict(both_ops(in_type(inputs, dtype), slice(None))) for name, dtype in TYPES.items()}


def gathered(parts: list[np.ndarray], key: str) -> np.ndarray:
    """The whole of one quantity: columns side by side, and what every rank has, once."""
    if key in ("d_logits", "d_weight"):
        return np.concatenate(parts, axis=1 if key == "d_logits" else 0)
    for part in parts[1:]:
        np.testing.assert_array_equal(part, parts[0], err_msg=f"{key} must be the same bits on every rank")
    return parts[0]


@pytest.mark.parametrize("type_name", list(TYPES))
@pytest.mark.parametrize("case", list(CASES))
def test_ranks_give_what_one_rank_gives(
    ranks: list[dict[str, np.ndarray]], whole: dict[str, dict[str, Named]], case: str, type_name: str
) -> None:
    """In fp64 to the last digits; in fp32 as near to fp64 as one rank comes in fp32."""
    for op, expected in whole["float64"].items():
        for key, exact in expected.items():
            name = f"{case}/{type_name}/{op}/{key}"
            found = torch.from_numpy(gathered([rank[name] for rank in ranks[: len(CASES[case])]], key))
            if key == "target_rank":
                assert torch.equal(found, exact), name
            elif type_name == "float64":
                torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12, msg=name)
            else:
                assert_as_accurate_as_torch(found, exact, whole[type_name][op][key], name=name)


def test_what_ranks_are_compared_with_is_not_trivial(whole: dict[str, dict[str, Named]]) -> None:
    """Every quantity varies, and the ignored row is 0 everywhere."""
    for expected in whole["float64"].values():
        for key, value in expected.items():
            assert len(value.unique()) > 10, key
            if not key.startswith("d_"):
                assert float(value[5]) == 0, key
