"""A run begun with ``model.dtype=auto`` has a dtype from then on, wherever it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from support.runs import DEMO, Program

from megaent.run.command_record import read_command

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return Program(tmp_path_factory.mktemp("measured"))


def test_what_was_measured_is_kept_by_a_resumed_run(program: Program) -> None:
    run = program.folder / "run"
    outcome = program.run("train", *DEMO, "model.dtype=auto", "steps=2", f"run.dir={run}").check()
    [line] = [line for line in outcome.out.splitlines() if line.startswith("model.dtype=auto is ")]
    chosen = line.split()[2]
    assert chosen in ("float32", "bfloat16")
    assert written(run) == (chosen, [f"model.dtype={chosen}"])

    outcome = program.run("resume", str(run), "steps=3").check()
    assert "model.dtype" not in outcome.out
    assert written(run) == (chosen, [f"model.dtype={chosen}"])

    outcome = program.run("resume", str(run), "model.dtype=auto")
    assert outcome.code == 2
    assert "a run that goes on needs model.dtype=float32, bfloat16 or float64" in outcome.err


def written(run: Path) -> tuple[str, list[str]]:
    """The dtype in config.yaml, and the overrides about it."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    words = [word for word in read_command(run).overrides if word.startswith("model.dtype")]
    return config["model"]["dtype"], words
