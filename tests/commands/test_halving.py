"""Settings that are left after few steps: which, what is said of them, and that the others lose nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.runs import DEMO, Program, recorded_steps, repeatable

from megaent.cli import main
from megaent.commands.halving import Halving, judge, read_halving
from megaent.commands.sweep_words import read_words
from megaent.errors import ConfigError
from megaent.report.sweep_record import Point

BOTH = ["sweep.halving=2", "sweep.first_steps=2"]


def point(setting: str, seed: int) -> Point:
    return Point(words=(f"a={setting}", f"seed={seed}"), folder=f"a={setting},seed={seed}")


def write_accuracies(folder: Path, of: Point, accuracies: list[float]) -> None:
    lines = [{"step": step, "accuracy/mean": value} for step, value in enumerate(accuracies, start=1)]
    (folder / of.folder).mkdir()
    (folder / of.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("one_of", "first", "steps", "expected"),
    [(3, 20, 100, [20, 60]), (3, 20, 60, [20]), (2, 1, 9, [1, 2, 4, 8]), (2, 99, 100, [99])],
)
def test_rungs(one_of: int, first: int, steps: int, expected: list[int]) -> None:
    assert Halving(one_of=one_of, first_steps=first).rungs(steps) == expected


def test_a_first_rung_that_saves_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="each run has 20 steps"):
        Halving(one_of=2, first_steps=20).rungs(20)


def test_seeds_are_judged_together_and_by_the_steps_that_all_have(tmp_path: Path) -> None:
    # After 10 steps the last tenth is one: a has .2 and .4, b .9 and .1, c .5; d did not get there.
    low, high = [0.0] * 9, [1.0] * 9
    for of, accuracies in {
        point("a", 0): [*high, 0.2, 1.0, 1.0],
        point("a", 1): [*high, 0.4],
        point("b", 0): [*low, 0.9],
        point("b", 1): [*low, 0.1],
        point("c", 0): [*low, 0.5],
        point("d", 0): [1.0] * 9,
    }.items():
        write_accuracies(tmp_path, of, accuracies)
    points = [point("a", 0), point("a", 1), point("b", 0), point("b", 1), point("c", 0), point("d", 0)]
    found = judge(tmp_path, points, 10, one_of=3)
    assert found.going_on == (point("b", 0), point("b", 1)), "b and c are equal, b comes first"
    assert found.set_aside == {
        point("c", 0): "accuracy 50.0% after 10 steps, place 2 of 3",
        point("a", 0): "accuracy 30.0% after 10 steps, place 3 of 3",
        point("a", 1): "accuracy 30.0% after 10 steps, place 3 of 3",
    }
    assert found.words == "after 10 steps 1 of 3 settings go on: a=b (50.0%)"
    assert judge(tmp_path, points, 10, one_of=2).going_on == (point("b", 0), point("b", 1), point("c", 0))


def test_the_words() -> None:
    assert read_halving(BOTH) == Halving(one_of=2, first_steps=2)
    asked = read_words(["-m", "optim.lr=1e-3,1e-4", *BOTH])
    assert asked.halving == Halving(one_of=2, first_steps=2)
    assert asked.common == (), "they are no options of a run"
    assert read_words(["-m", "optim.lr=1e-3,1e-4"]).halving is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep.halving=2"], "needs sweep.first_steps=20 beside it"),
        (["sweep.first_steps=2"], "needs sweep.halving=3 beside it"),
        (
            ["sweep.halving=1", "sweep.first_steps=2"],
            "sweep.halving must be a whole number from 2 on, got '1'",
        ),
        (["sweep.halving=2.5", "sweep.first_steps=2"], "got '2.5'"),
        (["sweep.halving=2", "sweep.first_steps=0"], "sweep.first_steps must be a whole number from 1 on"),
        ([*BOTH, "steps=10,20"], "give steps= one value"),
        (["run.until=3"], "sweep.halving=3 sweep.first_steps=20 leaves settings of little promise early"),
    ],
)
def test_what_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_words(["-m", "optim.lr=1e-3,1e-4", *words])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["experiment=demo", "optim.lr=1e-3,1e-4", "steps=2", *BOTH], "each run has 2 steps"),
        (["experiment=demo,two_strategies", *BOTH], "these have 120, 150; give one steps="),
        (["experiment=demo", "optim.lrr=1", "optim.lr=1e-3,1e-4", "sweep.trials=2"], "optim.lrr"),
        (["experiment=demo", "optim.lr=tag(log,interval(0.0,1.0))", "sweep.trials=2"], "Optuna cannot draw"),
    ],
)
def test_what_no_point_can_be_is_refused_before_anything_is_made(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "swept"
    assert main(["train", "-m", *words, f"sweep.dir={folder}"]) == 2
    assert said in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.full
@pytest.mark.timeout(600)
def test_what_goes_on_is_the_run_that_nothing_interrupted(
    program: Program, reference: Path, tmp_path: Path
) -> None:
    """The other setting forgets everything in its first step."""
    words = ("train", "-m", *DEMO, "optim.lr=0.0006,1", *BOTH, f"sweep.dir={tmp_path}")
    outcome = program.run(*words).check()
    kept, left = tmp_path / "optim.lr=0.0006", tmp_path / "optim.lr=1"
    assert repeatable(kept) == repeatable(reference)
    assert recorded_steps(left) == 2
    assert "after 2 steps 1 of 2 settings go on: optim.lr=0.0006" in outcome.out
    assert "set aside: optim.lr=1: accuracy " in outcome.out
    assert json.loads((left / "outcome.json").read_text())["state"] == "set aside"
    again = program.run(*words).check()
    assert "2 points in " in again.out
    assert "after 2 steps 1 of 2 settings go on: optim.lr=0.0006" in again.out
    assert recorded_steps(left) == 2
    every = [word for word in words if word not in BOTH]
    program.run(*every).check()
    assert recorded_steps(left) == 6, "without halving all go to their end"


@pytest.mark.full
def test_until_has_to_have_an_effect(program: Program, reference: Path, tmp_path: Path) -> None:
    outcome = program.run("train", *DEMO, "run.until=6", f"run.dir={tmp_path / 'run'}")
    assert outcome.code == 2
    assert "run.until=6 has no effect: the run ends after steps=6" in outcome.err
