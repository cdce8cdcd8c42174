"""A point is a real run in processes of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open

from megaent.errors import RunError
from megaent.scale.here import measure_here
from megaent.scale.point import count, measure, read_measured
from megaent.scale.series import BASE

SMALL = replace(BASE, prompts=2, group=2, tokens=8, pack=256)


def test_medians_are_over_the_steps_after_the_first(tmp_path: Path) -> None:
    rows = [
        {f"time/{verb}_s": 1.0 * step for verb in ("generate", "score", "update", "publish", "step")}
        | {"step": step, "tokens/prompt": 10, "tokens/response": 20 * step, "memory/peak_gib": 0.5 * step}
        for step in (1, 2, 3, 4)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_measured(tmp_path / "metrics.jsonl")
    assert found.seconds["update"] == 3.0
    assert found.tokens == 70
    assert found.tokens_per_s == pytest.approx(70 / 3)
    assert found.peak_gib == 1.5


@pytest.mark.full
def test_two_processes_run_and_are_measured(tmp_path: Path) -> None:
    found = measure(replace(SMALL, ranks=2, tp=2), tmp_path, steps=2, device="cpu", limit_s=300)
    [row] = [json.loads(line) for line in next(tmp_path.rglob("metrics.jsonl")).read_text().splitlines()][1:]
    assert found.seconds["step"] == row["time/step_s"] > row["time/update_s"] > 0
    assert found.tokens == row["tokens/prompt"] + row["tokens/response"]


@pytest.mark.full
def test_two_replicas_exchange_gradients_and_weights_once_a_step(tmp_path: Path) -> None:
    """docs/fleet.md: one reduce-scatter and one all-gather of all parameters, rounded up to 128."""
    found = count(replace(SMALL, ranks=2), tmp_path, device="cpu", limit_s=300)
    with safe_open(next(tmp_path.rglob("model.safetensors")), "pt") as file:
        parameters = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    whole = (1, 4 * -(-parameters // 128) * 128)
    assert found["reduce_scatter_tensor_coalesced"] == found["allgather_into_tensor_coalesced"] == whole
    assert found["alltoall_base"][0] == 2, "prompts are dealt: their lengths, and then they"
    assert all(size < 20_000 for kind, (_, size) in found.items() if "coalesced" not in kind), found


@pytest.mark.full
def test_a_run_that_fails_says_why_and_one_that_hangs_is_ended(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"ended with code 2(?s:.)*microbatch_tokens"):
        measure(replace(SMALL, pack=4), tmp_path, steps=2, device="cpu", limit_s=300)
    with pytest.raises(RunError, match=r"did not end within 0\.5 s"):
        measure(SMALL, tmp_path, steps=2, device="cpu", limit_s=0.5)


@pytest.mark.full
def test_this_machine_has_rates() -> None:
    rates = measure_here()
    assert rates.product_flops > 1e8
    assert rates.copy_bytes_per_s > 1e8
    assert rates.exchange_bytes_per_s > 1e6
    assert 0 < rates.exchange_latency_s < 1
    assert 0 <= rates.product_half < 1024
