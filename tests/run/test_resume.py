"""A run killed at any instant and resumed is the run that nothing interrupted, to the bit.

One run is killed and resumed again and again, each time at another instant, and looked at after each kill:
what it has recorded and saved by then must be a part of what the uninterrupted run did. Nothing wrong can
pass unseen, because whatever a later attempt starts from has been compared before.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from support.runs import (
    DEMO,
    Program,
    checkpoint,
    committed,
    contents,
    largest_difference,
    repeatable,
    saved_optimizer,
    saved_state,
)

from megaent.report.metrics import is_repeatable
from megaent.report.tables import TABLES, read_table

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]


class Kill(NamedTuple):
    moment: str  # for dying.py
    recorded: int  # lines of metrics.jsonl then
    saved: list[int]  # checkpoints then
    latest: str = ""  # what the file of that name says
    is_under_way: bool = False  # a hidden, unfinished checkpoint is there


# The moments in the order in which one run meets them. The first open of responses.md comes right after
# the line of metrics of the attempt's first step.
KILLS = {
    "before_the_first_checkpoint": Kill(r"open 1 responses\.md -> a", 1, []),
    "amid_the_model_files": Kill(
        r"open 1 step-00000004\.partial/model/__0_\d\.distcp -> .?w", 4, [2], "step-00000002", True
    ),
    "before_the_metadata": Kill(
        r"open 1 step-00000004\.partial/model/\.metadata\S* -> w", 4, [2], "step-00000002", True
    ),
    "before_the_manifest": Kill(
        r"open 1 step-00000004\.partial/manifest\.json -> w", 4, [2], "step-00000002", True
    ),
    "before_the_rename": Kill(r"os.rename 1 \.step-00000004\.partial -> ", 4, [2], "step-00000002", True),
    "before_latest_moves": Kill(r"os.rename 1 -> .*/latest$", 4, [2, 4], "step-00000002"),
    "between_checkpoints": Kill(r"open 1 responses\.md -> a", 5, [2, 4], "step-00000002"),
    # The resumed run has cut metrics.jsonl and not yet responses.md.
    "while_resuming": Kill(r"os.rename 1 -> .*/responses\.md$", 4, [2, 4], "step-00000002"),
    "after_the_last_step": Kill(r"open 2 responses\.md -> a", 6, [2, 4], "step-00000002"),
    "while_an_old_checkpoint_goes": Kill(r"shutil.rmtree 1 removed", 6, [4, 6], "step-00000006"),
}


@pytest.fixture(scope="module")
def killed(program: Program, reference: Path) -> Path:
    """The run after all its deaths and its last, whole, resumption; beside it, its state after each kill."""
    run = program.folder / "killed"
    for number, (name, kill) in enumerate(KILLS.items()):
        words = ("resume", str(run)) if number else ("train", *DEMO, f"run.dir={run}")
        program.run_dying_at(kill.moment, *words)
        shutil.copytree(run, snapshot(run, name))
        if name == "between_checkpoints":
            tear(run)
    program.run("resume", str(run)).check()
    return run


def snapshot(run: Path, name: str) -> Path:
    return run.with_name(f"killed-{name}")


def tear(run: Path) -> None:
    """What a power cut in the middle of recording leaves."""
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "accuracy/mean": 0.')
    with (run / "responses.md").open("a") as file:
        file.write("## step 6\n\nreward 1 ")


@pytest.mark.parametrize("name", KILLS)
def test_a_kill_leaves_a_part_of_the_uninterrupted_run(killed: Path, reference: Path, name: str) -> None:
    run, kill = snapshot(killed, name), KILLS[name]
    assert repeatable(run) == repeatable(reference)[: kill.recorded]
    if name != "while_resuming":
        responses = run / "responses.md"
        text = responses.read_text() if responses.exists() else ""
        assert (reference / "responses.md").read_text().startswith(text)
    assert committed(run) == kill.saved
    for step in kill.saved:
        check_same_checkpoint(run, reference, step)
    latest = run / "checkpoints" / "latest"
    assert (latest.read_text().strip() if latest.exists() else "") == kill.latest
    assert bool(list((run / "checkpoints").glob(".step-*.partial"))) == kill.is_under_way


def check_same_checkpoint(run: Path, reference: Path, step: int) -> None:
    ours, theirs = checkpoint(run, step), checkpoint(reference, step)
    assert largest_difference(ours, theirs) == 0.0
    assert saved_optimizer(ours) == saved_optimizer(theirs)
    assert saved_state(ours) == saved_state(theirs)


def test_the_comparison_sees_two_steps_of_training(reference: Path) -> None:
    four, six = checkpoint(reference, 4), checkpoint(reference, 6)
    assert largest_difference(four, six) > 1e-4
    assert saved_optimizer(four) != saved_optimizer(six)
    assert saved_state(four) != saved_state(six)


def test_ten_kills_later_everything_is_as_without_them(killed: Path, reference: Path) -> None:
    assert repeatable(killed) == repeatable(reference)
    assert (killed / "responses.md").read_bytes() == (reference / "responses.md").read_bytes()
    assert committed(killed) == [4, 6]
    check_same_checkpoint(killed, reference, 4)
    check_same_checkpoint(killed, reference, 6)


def test_every_step_is_recorded_once(killed: Path) -> None:
    assert [line["step"] for line in repeatable(killed)] == [1, 2, 3, 4, 5, 6]
    headings = re.findall(r"(?m)^## step (\d+)$", (killed / "responses.md").read_text())
    assert headings == ["1", "2", "3", "4", "5", "6"]


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_hold_every_step_once(killed: Path, reference: Path, name: str) -> None:
    ours, theirs = (read_table(run, name) for run in (killed, reference))
    assert ours.notes == theirs.notes == []
    assert set(theirs.rows["step"].to_pylist()) == {1, 2, 3, 4, 5, 6}
    assert repeatable_rows(ours.rows.to_pylist()) == repeatable_rows(theirs.rows.to_pylist())


def repeatable_rows(rows: list[dict]) -> list[dict]:
    return [row for row in rows if is_repeatable(row.get("metric", ""))]


def test_resuming_a_finished_run_changes_nothing(program: Program, reference: Path, tmp_path: Path) -> None:
    # A name full of what means something to Hydra.
    run = shutil.copytree(reference, tmp_path / "a run (lr=1e-3, 2)")
    before = contents(run)
    outcome = program.run("resume", str(run)).check()
    after = contents(run)
    for listing in (before, after):
        listing.pop("log.txt")
    assert after == before
    assert "all 6 steps are done" in outcome.out
    assert outcome.err == ""
    assert outcome.left_behind == ()
