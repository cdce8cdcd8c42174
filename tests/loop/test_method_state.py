"""What methods remember, in the whole program: killed and resumed, and spread over replicas.

Three choices use every kind of memory: a prompt history (CEEH), phases with a new optimizer (EGRC), and a
curriculum with a new reference policy, a controller and a cursor (SENT, adaptive entropy, DAPO's sampling).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.runs import (
    DEMO,
    Program,
    checkpoint,
    largest_difference,
    repeatable,
    saved_optimizer,
    saved_state,
)

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

CHOICES = {
    "history": ("method=ceeh",),
    "phases": ("method=egrc", "method.max_length=12", "method.explore_max_new_tokens=20"),
    "curriculum": (
        "method=[sent,adaptive_entropy,dapo]",
        "method.dapo.max_batches=2",
        "method.sent.responses=2",
        "data.train_prompts=32",
    ),
}


def state_of(run: Path, step: int) -> dict[str, Any]:
    return json.loads((checkpoint(run, step) / "state.json").read_text())["method"]


@pytest.fixture(scope="module")
def whole(program: Program) -> dict[str, Path]:
    runs = {name: program.folder / f"method-{name}" for name in CHOICES}
    for name, words in CHOICES.items():
        program.run("train", *DEMO, "checkpoint.keep=4", *words, f"run.dir={runs[name]}").check()
    return runs


@pytest.mark.parametrize("name", CHOICES)
def test_killed_and_resumed_is_uninterrupted_to_the_bit(
    program: Program, whole: dict[str, Path], name: str
) -> None:
    """Killed while the last checkpoint is written, so resumed from step 4, in the second phase."""
    run = program.folder / f"method-{name}-killed"
    moment = r"open 1 step-00000006\.partial/manifest\.json -> w"
    program.run_dying_at(moment, "train", *DEMO, "checkpoint.keep=4", *CHOICES[name], f"run.dir={run}")
    assert not checkpoint(run, 6).exists()
    program.run("resume", str(run)).check()
    assert repeatable(run) == repeatable(whole[name])
    for step in (2, 4, 6):
        ours, theirs = checkpoint(run, step), checkpoint(whole[name], step)
        assert largest_difference(ours, theirs) == 0.0
        assert saved_optimizer(ours) == saved_optimizer(theirs)
        assert saved_state(ours) == saved_state(theirs)


def test_the_history_moves_with_every_step(whole: dict[str, Path]) -> None:
    histories = [state_of(whole["history"], step)["history"] for step in (2, 4, 6)]
    assert histories[0] != histories[1] != histories[2]


def test_phases_begin_at_their_share_of_the_run(whole: dict[str, Path]) -> None:
    assert [state_of(whole["phases"], step)["phase"] for step in (2, 4, 6)] == [0, 1, 1]
    assert [line["length/max"] > 12 for line in repeatable(whole["phases"])].index(True) >= 3
    # A new optimizer starts its count anew.
    counts = [saved_state(checkpoint(whole["phases"], step))["optimizer_steps"] for step in (2, 4)]
    assert counts[1] < counts[0] + 2


def test_a_curriculum_is_measured_once_and_refers_to_its_stage(whole: dict[str, Path]) -> None:
    first, last = state_of(whole["curriculum"], 2), state_of(whole["curriculum"], 6)
    assert len(first["semantic_entropy"]) == 26, "every training prompt that the task has"
    assert first["semantic_entropy"] == last["semantic_entropy"]
    assert len(set(first["semantic_entropy"].values())) > 1
    assert (first["reference"], last["reference"]) == ("", "references/1")
    assert (whole["curriculum"] / "references" / "1" / "model.safetensors").is_file()
    states = [saved_state(checkpoint(whole["curriculum"], step)) for step in (2, 6)]
    assert states[1]["prompts"].keys() == {"0", "1"}
    references = [state["reference"] for state in states]
    assert references[0] != references[1]


def test_replicas_that_see_part_of_the_prompts_remember_all_of_them(
    program: Program, whole: dict[str, Path]
) -> None:
    run = program.folder / "method-history-dp2"
    program.torchrun(2, "train", *DEMO, "steps=2", *CHOICES["history"], f"run.dir={run}").check()
    assert state_of(run, 2)["history"] == state_of(whole["history"], 2)["history"]
