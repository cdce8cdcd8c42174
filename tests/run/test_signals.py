"""Ctrl-C and ``kill``: the step under way is saved, an exit code says so, nobody is left, the run goes on."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from support.runs import DEMO, Program, Running, committed, recorded_steps, repeatable

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

# No checkpoint but those that a signal brings.
ENDLESS = ("steps=1000", "checkpoint.every=0")


def is_saving(run: Path) -> bool:
    return any((run / "checkpoints").glob(".step-*.partial/model/*")) and recorded_steps(run) >= 3


def check_end(running: Running, run: Path, word: str) -> None:
    """The finished steps are saved, all of them, and the message says which is the last."""
    outcome = running.finish(limit_s=90)
    assert outcome.code == 10, outcome
    told, end = [line for line in outcome.err.splitlines() if line]
    assert told.startswith(f"megaent: {word}: the step under way ends and is saved, within 600 s; a second")
    done = recorded_steps(run)
    assert end == (
        f"megaent: stopped after step {done} of 1000, which is saved; `megaent resume {run}` continues"
    )
    assert committed(run)[-1] == done
    assert outcome.left_behind == ()


@pytest.fixture(scope="module")
def interrupted(program: Program, reference: Path) -> Path:
    """A run whose terminal got a Ctrl-C after its third step."""
    del reference  # asked for its warmed-up model
    run = program.folder / "interrupted"
    running = program.start("train", *DEMO, *ENDLESS, f"run.dir={run}")
    running.wait_until(lambda: recorded_steps(run) >= 3)
    running.signal_group(signal.SIGINT)
    check_end(running, run, "interrupted")
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


def test_sigterm_amid_a_checkpoint(program: Program, reference: Path) -> None:
    run = program.folder / "terminated-saving"
    running = program.start("train", *DEMO, *ENDLESS, "checkpoint.every=1", f"run.dir={run}")
    running.wait_until(lambda: is_saving(run))
    assert len(running.descendants()) == 1, "files are written by threads: there is nobody to leave behind"
    running.signal_leader(signal.SIGTERM)
    check_end(running, run, "terminated")
    done = min(recorded_steps(run), 6)
    assert repeatable(run)[:done] == repeatable(reference)[:done]
    headings = re.findall(r"(?m)^## step (\d+)$", (run / "responses.md").read_text())
    assert headings == [str(step) for step in range(1, recorded_steps(run) + 1)]


def test_who_leaves_at_once_is_told_what_is_lost(program: Program, reference: Path) -> None:
    """The limit of the step under way is so short that it does what a second signal does."""
    del reference
    run = program.folder / "left"
    running = program.start("train", *DEMO, *ENDLESS, "run.stop_limit_s=1e-3", f"run.dir={run}")
    running.wait_until(lambda: recorded_steps(run) >= 2)
    running.signal_leader(signal.SIGTERM)
    outcome = running.finish(limit_s=90)
    assert outcome.code == 143, outcome
    done = recorded_steps(run)
    assert outcome.err.splitlines()[-1] in {
        f"megaent: terminated; there is no checkpoint yet, {steps} finished steps are lost; "
        f"`megaent resume {run}` begins anew"
        for steps in (done, done - 1)
    }
    assert outcome.left_behind == ()
    assert committed(run) == []


def test_checkpoints_come_by_the_clock(program: Program, reference: Path) -> None:
    """Every time 100 times what the last one took has passed, which for the first is no time at all."""
    del reference
    run = program.folder / "clock"
    words = (*DEMO, "checkpoint.every=0", "checkpoint.minutes=1e-9", "steps=3", f"run.dir={run}")
    program.run("train", *words).check()
    assert committed(run) == [1, 3]


def test_all_processes_of_a_run_stop_after_the_same_step(program: Program, reference: Path) -> None:
    """torchrun passes the signal on to its workers, and reports in its own way that they ended."""
    run = program.folder / "torchrun-stopped"
    options = ("--standalone", "--nproc-per-node", "2", "-m", "megaent")
    words = ("train", *DEMO, *ENDLESS, f"run.dir={run}")
    running = program.start(*options, *words, program=("-m", "torch.distributed.run"))
    running.wait_until(lambda: recorded_steps(run) >= 1)
    running.signal_leader(signal.SIGTERM)
    outcome = running.finish(limit_s=90)
    assert outcome.code != 0
    done = recorded_steps(run)
    assert f"megaent (rank 0): stopped after step {done} of 1000, which is saved" in outcome.err
    assert "megaent (rank 1)" not in outcome.err
    assert committed(run) == [done]
    assert outcome.left_behind == ()
    assert repeatable(run)[0]["accuracy/mean"] == repeatable(reference)[0]["accuracy/mean"]
