"""Where else numbers go: real packages that ask no server, and what becomes of one that fails."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from megaent.errors import ConfigError, MissingDependency
from megaent.report.trackers import TRACKERS, Trackers, check_trackers, flat, identity


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each package reads back of two steps, a resume and a third."""
    repository = Path(__file__).resolve().parents[2]
    python = repository / ".venv-trackers" / "bin" / "python"
    if not python.exists():
        pytest.skip("the trackers are missing: `./scripts/setup_trackers`")
    folder = tmp_path_factory.mktemp("trackers")
    worker = Path(__file__).with_name("tracker_worker.py")
    done = subprocess.run(
        [str(python), str(worker), str(folder)],
        env=os.environ | {"PYTHONPATH": str(repository)}, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "read.json").read_text())


@pytest.mark.full
@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_resumed_run_is_one_run_with_all_its_steps(read: dict[str, Any], name: str) -> None:
    assert read[name]["steps"] == {"1": 0.25, "2": 0.5, "3": 0.75}
    assert len(read[name]["runs"]) == 1


@pytest.mark.full
def test_mlflow_holds_the_configuration(read: dict[str, Any]) -> None:
    assert read["mlflow"]["params"] == {"optim.lr": "0.001"}


@pytest.mark.full
def test_prometheus_reads_the_newest_step(read: dict[str, Any]) -> None:
    expected = {"megaent_reward_mean": 0.75, "megaent_step": 3.0, "megaent_version": 3.0}
    assert read["prometheus"] == {"values": expected, "runs": ["first"]}


class Failing:
    """A service that takes one step and no more."""

    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        self.written: list[int] = []
        self.is_closed = False

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        if step > 1:
            raise ConnectionError("the service is gone")
        self.written.append(step)

    def close(self) -> None:
        self.is_closed = True


class Steady(Failing):
    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        self.written.append(step)


class Refusing:
    def __init__(self, run: Path, config: Mapping[str, Any]) -> None:
        raise PermissionError("no key\nfor this service")


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> dict[str, Failing]:
    made: dict[str, Failing] = {}

    def make(name: str, kind: type[Failing]):
        def begin(run: Path, config: Mapping[str, Any]) -> Failing:
            made[name] = kind(run, config)
            return made[name]

        return begin

    monkeypatch.setitem(TRACKERS, "failing", make("failing", Failing))
    monkeypatch.setitem(TRACKERS, "steady", make("steady", Steady))
    monkeypatch.setitem(TRACKERS, "refusing", Refusing)
    return made


def test_one_that_fails_is_told_once_and_others_go_on(
    services: dict[str, Failing], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        trackers = Trackers(["failing", "steady"], tmp_path, {})
        for step in (1, 2, 3):
            trackers.write(step, {"loss": 1.0})
        trackers.close()
    assert services["failing"].written == [1]
    assert services["steady"].written == [1, 2, 3]
    assert services["steady"].is_closed
    [said] = [record.getMessage() for record in caplog.records]
    assert said == (
        "the tracker failing failed: the service is gone; step 2 and what follows are not in it, "
        "and the run goes on"
    )


def test_one_that_cannot_begin_is_refused_and_the_others_are_closed(
    services: dict[str, Failing], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"run\.trackers: refusing cannot begin: no key for this service"):
        Trackers(["steady", "refusing"], tmp_path, {})
    assert services["steady"].is_closed


def test_what_is_unknown_or_missing_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match=r"run\.trackers has 'wandbb'; known are wandb, mlflow"):
        check_trackers(["wandbb"])
    with pytest.raises(MissingDependency, match="trackio is not installed; run `pip install trackio`"):
        check_trackers(["trackio"])


def test_a_directory_has_one_identity(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert identity(tmp_path / "a") == identity(tmp_path / "a" / ".." / "a")
    assert identity(tmp_path / "a") != identity(tmp_path / "b")


def test_a_configuration_is_flattened() -> None:
    assert flat({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == [("a.b", 1), ("a.c.d", [2]), ("e", None)]
