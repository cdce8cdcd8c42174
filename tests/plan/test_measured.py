"""Constants from a bench's report: its rooflines as shares of the data sheet, of the same kind of card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megaent.errors import ConfigError
from megaent.plan.cluster import find_cluster
from megaent.plan.measured import measured_constants
from megaent.plan.question import read_question
from megaent.plan.search import Search

H100 = {"name": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0"}


def report(folder: Path, repository: Path, *, machine: dict, product: float, copy: float) -> Path:
    """A real report of this program, of a CPU, with a card's name and rates."""
    results = repository / "benchmarks" / "results" / "epyc-2.9ghz-2cores"
    cases = []
    for name in ("ops_cpu_linear.json", "ops_cpu_logits.json"):
        cases += json.loads((results / name).read_text())["cases"]
    for case in cases:
        case["dtype"] = "bf16"
        case["roofline"]["per_s"] = product if case["path"] == "linear" else copy
    path = folder / "ops_cuda.json"
    path.write_text(json.dumps({"machine": machine, "cases": cases}))
    return path


def test_rooflines_become_shares_of_the_data_sheet(tmp_path: Path, repository: Path) -> None:
    path = report(tmp_path, repository, machine=H100, product=700e12, copy=2.9e12)
    found = measured_constants(path, find_cluster("h100"))
    assert found == {
        "gemm_share_hopper": pytest.approx(700 / 989),
        "memory_share": pytest.approx(2900 / 3350),
    }


def test_a_slower_card_makes_a_slower_plan_and_a_given_constant_counts_first(
    tmp_path: Path, repository: Path
) -> None:
    words = ["model=llama3_8b", "workload=train", "gpus=8", "cp=2", "tp=1", "pp=1"]
    slow = report(tmp_path, repository, machine=H100, product=500e12, copy=2.5e12)
    ours = Search(read_question(words)).run().candidates[0]
    measured = Search(read_question([*words, f"measured={slow}"])).run().candidates[0]
    assert measured.seconds > 1.1 * ours.seconds
    both = read_question([*words, f"measured={slow}", "constants.memory_share=0.8"])
    assert both.read_constants(find_cluster("h100")).memory_share == 0.8


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"machine": {"name": "AMD EPYC"}}, "is of AMD EPYC, compute capability none"),
        ({"machine": H100 | {"compute_capability": "8.0"}}, "8.0, and H100 SXM .* has 9.x"),
        ({"product": 2000e12}, "gemm_share_hopper would be 2.02"),
    ],
)
def test_a_report_of_another_card_is_refused(
    tmp_path: Path, repository: Path, change: dict, says: str
) -> None:
    given = {"machine": H100, "product": 700e12, "copy": 2.9e12} | change
    with pytest.raises(ConfigError, match=says):
        measured_constants(report(tmp_path, repository, **given), find_cluster("h100"))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"machine": 1, "cases": []}', '{"machine": {}, "cases": [1]}']
)
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="is no report of"):
        measured_constants(path, find_cluster("h100"))
    with pytest.raises(ConfigError, match="cannot be read"):
        measured_constants(tmp_path / "absent.json", find_cluster("h100"))
