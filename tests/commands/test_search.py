"""Settings that Optuna chooses: better than chance where the truth is known, the same when asked again."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from support.runs import DEMO, Program, contents, recorded_steps

from megaent.commands.search import Goal, Search, SearchWords, read_goals
from megaent.commands.sweep_words import read_words
from megaent.errors import ConfigError

SPACE = ["optim.lr=tag(log,interval(1e-5,1e-1))", "method.coef=int(interval(1,40))", "x=a,b"]


def asked(*words: str) -> SearchWords:
    search = read_words(["-m", *words]).search
    assert search is not None
    return search


def accuracy(words: tuple[str, ...]) -> float:
    """Best at lr = 1e-3, coef = 20, x = b."""
    given = dict(word.split("=") for word in words)
    far = abs(math.log10(float(given["optim.lr"])) + 3) / 2 + abs(int(given["method.coef"]) - 20) / 20
    return (1.0 if given["x"] == "b" else 0.5) - 0.3 * far


def settings(search: Search, count: int) -> list[tuple[str, ...]]:
    found = []
    for _ in range(count):
        trial, words = search.ask()
        search.tell(trial, {"accuracy": accuracy(words), "length": 1.0, "entropy": 0.5})
        found.append(words)
    return found


CHANCE = 0.75 - 0.3 * (0.5 + 0.5)
"""Mean accuracy of settings drawn evenly: each of the two distances is 0 to 1, evenly to both sides."""


@pytest.mark.parametrize("failing", [[], [None, {}, {"length": 1.0}]])
def test_what_is_told_leads_it(failing: list[dict[str, float] | None]) -> None:
    """Also where every other setting fails, in one way or another."""
    search, values = Search(asked(*SPACE, "sweep.trials=1")), []
    for number in range(120 if failing else 60):
        trial, words = search.ask()
        values.append(accuracy(words))
        is_lost = failing and number % 2
        search.tell(trial, failing[number % 3] if is_lost else {"accuracy": values[-1]})
    assert sum(values[-20:]) / 20 > CHANCE + 0.2
    assert max(values) > 0.9


def test_the_same_command_asks_for_the_same_settings() -> None:
    words = asked(*SPACE, "sweep.trials=30")
    assert settings(Search(words), 30) == settings(Search(words), 30)


def test_values_stay_where_they_may_be() -> None:
    for setting in settings(Search(asked(*SPACE, "sweep.trials=40")), 40):
        coef, lr, x = (word.split("=")[1] for word in setting)
        assert 1 <= int(coef) <= 40
        assert 1e-5 <= float(lr) <= 1e-1
        assert x in "ab"


def test_losses_by_hand() -> None:
    up, down, band = read_goals("[accuracy,-length,entropy:0.3:0.8]")
    assert (up.loss(0.7), down.loss(30.0)) == (-0.7, 30.0)
    assert [band.loss(value) for value in (0.1, 0.3, 0.5, 0.8, 1.0)] == pytest.approx([0.2, 0, 0, 0, 0.2])
    assert read_goals("accuracy") == (Goal(name="accuracy"),)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep.goals=[accuracy]"], "needs sweep.trials=20"),
        (["sweep.trials=0"], "sweep.trials must be a whole number from 1 on"),
        (["sweep.trials=3", "sweep.goals=[speed]"], "a goal is one of accuracy, length, entropy"),
        (["sweep.trials=3", "sweep.goals=[accuracy,-accuracy]"], "names a measure twice"),
        (["sweep.trials=3", "sweep.goals=[entropy:1:0]"], "its low end comes first"),
        (["sweep.trials=3", "sweep.goals=[entropy:a:b]"], "the ends of a band are numbers"),
        (["sweep.trials=3", "sweep.halving=2", "sweep.first_steps=2"], "not both"),
    ],
)
def test_what_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_words(["-m", "optim.lr=interval(1e-5,1e-1)", *words])


def test_nothing_to_choose_and_bounds_that_are_none() -> None:
    with pytest.raises(ConfigError, match="needs something to choose"):
        read_words(["-m", "seed=0,1", "sweep.trials=3"])
    with pytest.raises(ConfigError, match="Optuna cannot draw from"):
        Search(asked("optim.lr=tag(log,interval(0.0,1.0))", "sweep.trials=3"))


@pytest.mark.full
@pytest.mark.timeout(900)
def test_trials_go_on_where_they_were(program: Program, tmp_path: Path) -> None:
    """Two seeds at once in processes of joblib; then more trials, the first of which is finished."""
    words = (
        "train",
        "-m",
        *DEMO,
        "steps=2",
        "optim.lr=tag(log,interval(1e-4,1e-2))",
        f"sweep.dir={tmp_path}",
    )
    at_once = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    first = program.run(*words, "seed=0,1", "sweep.trials=1", *at_once).check()
    points = json.loads((tmp_path / "sweep.json").read_text())["points"]
    assert [point["words"][1] for point in points] == ["seed=0", "seed=1"]
    assert f"trial 1 of 1: {points[0]['words'][0]}" in first.out
    before = contents(tmp_path / points[0]["folder"])
    program.run(*words, "seed=range(0,1)", "sweep.trials=2").check()
    found = json.loads((tmp_path / "sweep.json").read_text())["points"]
    assert found[:2] == points
    assert len(found) == 3
    assert contents(tmp_path / points[0]["folder"]) == before
    assert all(recorded_steps(tmp_path / point["folder"]) == 2 for point in found)
