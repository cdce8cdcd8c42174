"""Every method of the registry through the whole program: engine, Megatron, checkpoint, metrics."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from support.documents import documented_metrics, metrics_of_methods
from support.runs import ROOT, Program, committed, repeatable

from megaent.methods import METHODS

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def runs(program: Program) -> dict[str, Path]:
    folder = program.folder / "every-method"
    script = Path(__file__).with_name("every_method.py")
    path = f"{ROOT / 'tests'}:{ROOT}"
    running = program.start(str(folder), *METHODS, program=(str(script),), environment={"PYTHONPATH": path})
    running.finish(limit_s=800).check()
    return {name: folder / name for name in METHODS}


@pytest.mark.parametrize("name", METHODS)
def test_two_steps_are_recorded_and_saved(runs: dict[str, Path], name: str) -> None:
    lines = repeatable(runs[name])
    assert [line["step"] for line in lines] == [1, 2]
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert committed(runs[name]) == [2]
    method = (runs[name] / "method.txt").read_text().splitlines()
    assert method[0].startswith("Schedule(phases=(Phase(")
    assert all(re.match(r"(\[[\w ]+\] )?[a-z ]+: \S", line) for line in method[2:]), method


@pytest.mark.parametrize("name", METHODS)
def test_every_metric_that_a_method_reports_is_documented(runs: dict[str, Path], name: str) -> None:
    assert reported(runs[name]) <= documented_metrics(ROOT / "docs" / "metrics.md")


def reported(run: Path) -> set[str]:
    return {metric for line in repeatable(run) for metric in line} - {"step"}


def test_every_documented_metric_of_a_method_is_reported_by_one(runs: dict[str, Path]) -> None:
    """Those that plain GRPO reports are compared in test_run_directory."""
    everywhere = set().union(*map(reported, runs.values()))
    of_methods = metrics_of_methods(ROOT / "docs" / "metrics.md")
    assert len(of_methods) > 20
    assert of_methods <= everywhere, of_methods - everywhere


def test_methods_that_differ_learn_different_things(runs: dict[str, Path]) -> None:
    """All from one model and the same first prompts: equal losses would mean that an option went nowhere."""
    losses = {name: repeatable(run)[0]["loss"] for name, run in runs.items()}
    for name in ("dr_grpo", "rloo", "opo", "reinforce_pp", "less", "etr", "ceeh", "egrc", "gspo", "archer"):
        assert losses[name] != losses["grpo"], name
