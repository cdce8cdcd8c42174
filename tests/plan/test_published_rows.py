"""The table of errors against published measurements does not become worse, and no row is lost."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from megaent.cli import main
from megaent.errors import ConfigError
from megaent.plan.constants import EXPECTED, Constants
from megaent.plan.rows import read_rows

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
WORSE_OVERALL, WORSE_IN_A_PART = 1.05, 1.10
NOISE = 0.002  # of an error, below which a share of it means nothing


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plan_rows", BENCHMARKS / "plan_rows.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["plan_rows"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def outcomes(program: ModuleType) -> list:
    return program.outcomes(read_rows(BENCHMARKS / "plan_rows.csv"), Constants())


@pytest.fixture(scope="module")
def kept() -> dict:
    return json.loads((BENCHMARKS / "results" / "plan" / "errors.json").read_text())


def test_no_part_of_the_table_is_worse(program: ModuleType, outcomes: list, kept: dict) -> None:
    for group, found in (("parts", program.parts(outcomes)), ("projects", program.by_project(outcomes))):
        for name, before in kept[group].items():
            assert found[name]["rows"] >= before["rows"], f"{name} plans fewer rows"
            assert found[name]["median"] <= WORSE_IN_A_PART * before["median"] + NOISE, name
            assert found[name]["nine_in_ten"] <= WORSE_IN_A_PART * before["nine_in_ten"] + NOISE, name


def test_the_table_as_a_whole_is_not_worse(program: ModuleType, outcomes: list, kept: dict) -> None:
    found, before = program.summary(outcomes), kept["all"]
    assert found["median"] <= WORSE_OVERALL * before["median"] + NOISE
    assert found["nine_in_ten"] <= WORSE_OVERALL * before["nine_in_ten"] + NOISE


def test_a_worse_plan_is_seen(program: ModuleType, kept: dict) -> None:
    rows = read_rows(BENCHMARKS / "plan_rows.csv")
    slow = program.outcomes(rows, replace(Constants(), gemm_share_hopper=0.6))
    assert program.summary(slow)["median"] > WORSE_OVERALL * kept["all"]["median"] + NOISE


def test_dense_training_is_planned_as_well_as_was_asked(program: ModuleType, outcomes: list) -> None:
    """Over every judged dense row: half of them within 10 %, nine in ten within 25 %."""
    judged = program.parts(outcomes)["judged dense"]
    assert judged["median"] <= 0.10
    assert judged["nine_in_ten"] <= 0.25


def test_a_plan_prints_the_errors_that_were_found(program: ModuleType, outcomes: list) -> None:
    for kind, (median, nine_in_ten) in EXPECTED.items():
        found = program.parts(outcomes)[f"judged {kind}"]
        assert found["median"] == pytest.approx(median, abs=0.006), kind
        assert found["nine_in_ten"] == pytest.approx(nine_in_ten, abs=0.006), kind


def test_no_project_is_in_both_halves(program: ModuleType, outcomes: list) -> None:
    fitted = {one.project for one in outcomes if one.half == "fitted"}
    judged = {one.project for one in outcomes if one.half == "judged" and one.row["workload"] == "train"}
    assert fitted.isdisjoint(judged)
    assert fitted <= set(program.FITTED)


def test_rows_of_ones_own_are_planned_beside_their_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.csv"
    lines = (BENCHMARKS / "plan_rows.csv").read_text().splitlines()
    unknown = next(line for line in lines if "MPT-7b" in line).replace("MPT-7b", "Own-7B")
    path.write_text("\n".join([lines[0], lines[1], unknown]) + "\n")
    assert main(["plan", "--rows", str(path)]) == 0
    printed = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["model"] for row in printed] == ["GPT-1.7B", "Own-7B"]
    assert all(0.5 < float(row["planned_over_value"]) < 2 for row in printed)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("n_gpus", "cards"), "lacks the columns n_gpus"),
        ((",32,1,1,1,1,", ",many,1,1,1,1,"), "line 2: n_gpus must be a number, got 'many'"),
        ((",137,", ",,"), "line 2: value must be a number, got ''"),
    ],
)
def test_a_bad_file_of_rows_is_refused(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    path = tmp_path / "rows.csv"
    lines = (BENCHMARKS / "plan_rows.csv").read_text().splitlines()[:2]
    path.write_text("\n".join(lines).replace(*change) + "\n")
    with pytest.raises(ConfigError, match=says):
        read_rows(path)
