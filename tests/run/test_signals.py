"""Ctrl-C and ``kill``: one line, the usual exit code, nobody left behind, and a run that can go on."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from support.runs import DEMO, Program, Running, committed, recorded_steps, repeatable

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

ENDLESS = ("steps=1000", "checkpoint.every=2")


def is_saving(run: Path) -> bool:
    return any((run / "checkpoints").glob(".step-*.partial/model/*")) and recorded_steps(run) >= 3


def check_end(running: Running, code: int, word: str) -> None:
    outcome = running.finish(limit_s=60)
    assert outcome.code == code, outcome
    assert outcome.err == f"megaent: {word}; `megaent resume DIR` continues from the newest checkpoint\n"
    assert outcome.left_behind == ()


@pytest.fixture(scope="module")
def interrupted(program: Program, reference: Path) -> Path:
    """A run whose terminal got a Ctrl-C after its third step."""
    del reference  # asked for its warmed-up model
    run = program.folder / "interrupted"
    running = program.start("train", *DEMO, *ENDLESS, f"run.dir={run}")
    running.wait_until(lambda: recorded_steps(run) >= 3)
    running.signal_group(signal.SIGINT)
    check_end(running, 130, "interrupted")
    return run


def test_after_ctrl_c_the_run_goes_on(program: Program, interrupted: Path, reference: Path) -> None:
    done = recorded_steps(interrupted)
    assert 3 <= done < 100
    steps = max(done + 1, 6)
    program.run("resume", str(interrupted), f"steps={steps}").check()
    lines = repeatable(interrupted)
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    assert lines[:6] == repeatable(reference)
    assert committed(interrupted)[-1] == steps


def test_ctrl_c_amid_a_checkpoint(program: Program, reference: Path) -> None:
    del reference
    run = program.folder / "interrupted-saving"
    running = program.start("train", *DEMO, *ENDLESS, "checkpoint.every=1", f"run.dir={run}")
    running.wait_until(lambda: is_saving(run))
    running.signal_group(signal.SIGINT)
    check_end(running, 130, "interrupted")
    assert committed(run)[-1] in (recorded_steps(run) - 1, recorded_steps(run))


def test_sigterm_ends_like_ctrl_c(program: Program, reference: Path) -> None:
    run = program.folder / "terminated"
    running = program.start("train", *DEMO, *ENDLESS, f"run.dir={run}")
    running.wait_until(lambda: recorded_steps(run) >= 3)
    running.signal_leader(signal.SIGTERM)
    check_end(running, 143, "terminated")
    committed(run)
    done = min(recorded_steps(run), 6)
    assert repeatable(run)[:done] == repeatable(reference)[:done]
    headings = re.findall(r"(?m)^## step (\d+)$", (run / "responses.md").read_text())
    assert headings[:done] == [str(step) for step in range(1, len(headings[:done]) + 1)]
