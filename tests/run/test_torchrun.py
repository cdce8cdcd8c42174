"""The whole program under torchrun: trained and resumed in several layouts, it is the run of one process."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
from support.runs import DEMO, Program, checkpoint, committed, repeatable, saved_tensors
from support.same_run import check_same_checkpoint, check_same_step

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

LAYOUTS = {
    "tensor": ("parallel.tensor_model_parallel_size=2",),
    "pipeline": ("parallel.pipeline_model_parallel_size=2",),
    "data": (),
}
RESUMED = ("tensor", "pipeline")


def test_the_comparison_sees_two_steps_of_training(reference: Path) -> None:
    four, six = saved_tensors(checkpoint(reference, 4)), saved_tensors(checkpoint(reference, 6))
    moved = [float((tensor - six[name]).abs().mean()) for name, tensor in four.items()]
    assert sum(mean > 1e-4 for mean in moved) > 10
    assert repeatable(reference)[0]["loss"] != pytest.approx(repeatable(reference)[1]["loss"], abs=1e-3)


# ---------------------------------------------------------------- from the first step


@pytest.fixture(scope="module")
def trained(program: Program) -> dict[str, Path]:
    """Two steps in each layout."""
    runs = {name: program.folder / f"torchrun-{name}" for name in LAYOUTS}
    for name, run in runs.items():
        outcome = program.torchrun(2, "train", *DEMO, "steps=2", *LAYOUTS[name], f"run.dir={run}").check()
        assert outcome.left_behind == ()
    return runs


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_first_step_is_that_of_one_process(
    trained: dict[str, Path], reference: Path, layout: str
) -> None:
    first, second = repeatable(trained[layout])
    check_same_step(first, repeatable(reference)[0])
    assert second["step"] == 2
    assert all(math.isfinite(value) for value in second.values())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_steps_lead_to_the_weights_of_one_process(
    trained: dict[str, Path], reference: Path, layout: str
) -> None:
    assert committed(trained[layout]) == [2]
    check_same_checkpoint(trained[layout], reference, 2)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_run_directory_is_complete(trained: dict[str, Path], reference: Path, layout: str) -> None:
    assert {path.name for path in trained[layout].iterdir()} == {path.name for path in reference.iterdir()}
    assert (trained[layout] / "responses.md").read_text().count("\n## step ") == 1


# ---------------------------------------------------------------- resumed


@pytest.fixture(scope="module")
def resumed(program: Program, reference: Path) -> dict[str, Path]:
    """One process trained four steps; two processes train the rest."""
    runs = {}
    for name in RESUMED:
        run = runs[name] = shutil.copytree(reference, program.folder / f"resumed-{name}")
        shutil.rmtree(checkpoint(run, 6))
        program.torchrun(2, "resume", str(run), *LAYOUTS[name]).check()
    return runs


@pytest.mark.parametrize("layout", RESUMED)
def test_another_layout_continues_where_one_process_stopped(
    resumed: dict[str, Path], reference: Path, layout: str
) -> None:
    found, expected = repeatable(resumed[layout]), repeatable(reference)
    assert found[:4] == expected[:4]
    check_same_step(found[4], expected[4])
    assert [line["step"] for line in found] == [1, 2, 3, 4, 5, 6]
    assert all(math.isfinite(value) for value in found[5].values())


@pytest.mark.parametrize("layout", RESUMED)
def test_another_layout_saves_what_one_process_saves(
    resumed: dict[str, Path], reference: Path, layout: str
) -> None:
    assert committed(resumed[layout]) == [2, 4, 6]
    check_same_checkpoint(resumed[layout], reference, 6)


def test_one_process_continues_where_two_stopped(
    program: Program, trained: dict[str, Path], reference: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(trained["tensor"], tmp_path / "run")
    program.run("resume", str(run), "parallel.tensor_model_parallel_size=1", "steps=4").check()
    found, expected = repeatable(run), repeatable(reference)
    assert [line["step"] for line in found] == [1, 2, 3, 4]
    check_same_step(found[2], expected[2])
    check_same_checkpoint(run, reference, 4)
