"""Planned lines of a measured point, against sums by hand and the weights that a model really has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open

from megaent.scale.here import Rates, machine_of
from megaent.scale.planned import overhead_of, planned
from megaent.scale.point import Measured
from megaent.scale.series import BASE
from megaent.small_models.random_model import ModelSizes, make_random_model

RATES = Rates(
    cores=2, product_flops=5e10, product_half=0.0, attention_flops=1e10, copy_bytes_per_s=1e10,
    exchange_bytes_per_s=1e8, exchange_latency_s=1e-4,
)  # fmt: skip
HERE = machine_of(RATES)
FOUND = Measured(
    seconds={"generate": 1.0, "score": 0.4, "update": 1.2, "publish": 0.1, "step": 3.0},
    tokens_per_s=700.0,
    peak_gib=1.0,
    tokens=2048.0,
)


def test_an_element_has_four_bytes_here() -> None:
    # 1e6 elements: 2e6 bytes of the plan, 4e6 here, half of them from the other process.
    assert HERE.all_gather(2e6, 2) == pytest.approx(2e6 / 1e8 + 1e-4)
    assert HERE.traffic(2e6) == pytest.approx(4e6 / 1e10)
    assert HERE.gemm(1000, 1000, 1000) == pytest.approx(2e9 / 5e10)
    assert HERE.attention(3e9, head_dim=16) == pytest.approx(0.3)


def test_a_side_of_half_length_halves_the_rate() -> None:
    half = machine_of(replace(RATES, product_half=64.0))
    assert half.gemm(1e9, 1e9, 64) == pytest.approx(2 * HERE.gemm(1e9, 1e9, 64))


def test_the_base_is_planned_as_it_was_measured() -> None:
    plan = planned(HERE, BASE, FOUND, overhead_of(HERE, BASE, FOUND))
    assert plan.seconds == pytest.approx({"score": 0.4, "update": 1.2})


def test_what_is_doubled_costs_what_it_does() -> None:
    """Twice the layers: twice the overhead and the layers' work; the head's, which does not grow, is left."""
    overhead = overhead_of(HERE, BASE, FOUND)
    plain, more = (
        planned(HERE, replace(BASE, sizes=replace(BASE.sizes, layers=layers)), FOUND, overhead).seconds
        for layers in (4, 8)
    )
    head = 2 * 2048 * BASE.sizes.hidden * BASE.sizes.vocab / 5e10
    assert more["score"] - plain["score"] == pytest.approx(plain["score"] - head, rel=1e-6)


def test_processes_beyond_the_cores_take_turns() -> None:
    no_overhead = {"score": 0.0, "update": 0.0}
    point = replace(BASE, ranks=4, tp=4)
    four, two = (
        planned(machine_of(replace(RATES, cores=cores)), point, FOUND, no_overhead) for cores in (4, 2)
    )
    assert two.seconds["score"] == pytest.approx(2 * four.seconds["score"])


def test_states_are_sixteen_bytes_for_every_parameter_of_the_file(tmp_path: Path) -> None:
    sizes = ModelSizes(layers=2, vocab=640)
    make_random_model(tmp_path / "model", sizes)
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        count = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    point = replace(BASE, sizes=sizes)
    assert planned(HERE, point, FOUND, {"score": 0.0, "update": 0.0}).states_gib * 2**30 == 16 * count
