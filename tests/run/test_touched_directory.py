"""A run directory that somebody touched: what can be made again is, what is lost is told, the rest a line."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
from pathlib import Path

import pytest
from support.runs import DEMO, Outcome, Program, checkpoint, committed, contents, recorded_steps, repeatable

from megaent.errors import CheckpointError
from megaent.run.command_record import COMMAND, read_command, render_command

# ---------------------------------------------------------------- command.json

RECORD = {"overrides": ["steps=3"], "environment": {"OMP_NUM_THREADS": "2"}, "threads": 2}
UNUSABLE = {
    "cut": '{"overrides": ["st',
    "another_encoding": json.dumps(RECORD).encode("utf-16"),
    "no_object": "[]",
    "no_overrides": json.dumps({key: RECORD[key] for key in ("environment", "threads")}),
    **{
        f"threads_{number}": json.dumps(RECORD | {"threads": threads})
        for number, threads in enumerate([0, -3, 10**9, 1.5, "two", None, True])
    },
    **{
        f"environment_{number}": json.dumps(RECORD | {"environment": environment})
        for number, environment in enumerate(
            [
                ["OMP_NUM_THREADS"],
                "OMP_NUM_THREADS=1",
                {"OMP_NUM_THREADS": "a few"},
                {"OMP_NUM_THREADS": "-1"},
                {"OMP_NUM_THREADS": 2},
                {"MEGAENT_OPS_BACKEND": "cpu\0"},
                {"TRITON_INTERPRET": "\ud800"},
            ]
        )
    },
}


def test_a_record_reads_back(tmp_path: Path) -> None:
    (tmp_path / COMMAND).write_text(render_command(["steps=3", "run.name=é"], threads=2))
    record = read_command(tmp_path)
    assert (record.overrides, record.threads) == (("steps=3", "run.name=é"), 2)


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_command_that_no_process_could_have_been_is_one_line(tmp_path: Path, name: str) -> None:
    text = UNUSABLE[name]
    (tmp_path / COMMAND).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError, match=r"command\.json cannot be read: .+; restore it from a copy"):
        read_command(tmp_path)


# ---------------------------------------------------------------- the files of a run, in the whole program


def check_one_line(outcome: Outcome, code: int) -> str:
    assert outcome.code == code, outcome
    (line,) = outcome.err.splitlines()
    assert line.startswith("megaent: ")
    return line


@pytest.fixture(scope="module")
def touched(program: Program, reference: Path) -> tuple[Path, Outcome]:
    """A run whose last checkpoint is gone and whose records were cut, from another folder, resumed."""
    run = shutil.copytree(reference, program.folder / "touched")
    shutil.rmtree(checkpoint(run, 6))
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join([lines[0], lines[2], lines[2], b"\xff\n", lines[3], b"\n"]))
    data = (run / "responses.md").read_bytes()
    (run / "responses.md").write_bytes(data[: data.index("·".encode(), data.index(b"## step 3")) + 1])
    config = (run / "config.yaml").read_bytes()
    (run / "config.yaml").write_bytes(b"steps: [1\n" + config[: len(config) // 2] + b"\xff")
    return run, program.run("resume", str(run)).check()


@pytest.mark.full
@pytest.mark.timeout(600)
def test_what_was_touched_is_made_again_or_told(touched: tuple[Path, Outcome], reference: Path) -> None:
    run, outcome = touched
    told = outcome.err.splitlines()
    assert len(told) == 3, outcome.err
    assert f"{run}/metrics.jsonl was changed by something else" in told[0]
    assert f"{run}/metrics.jsonl lacks step 2; what they reported is lost" in told[1]
    assert (
        f"{run}/responses.md was changed by something else: what it held of steps 3 to 4 is kept" in told[2]
    )
    assert f"{run}/config.yaml cannot be read" in outcome.out
    expected = repeatable(reference)
    assert repeatable(run) == [expected[0], *expected[2:]]
    assert re.findall(r"(?m)^## step (\d+)$", (run / "responses.md").read_text()) == ["1", "2", "5", "6"]
    assert (run / "config.yaml").read_bytes() == (reference / "config.yaml").read_bytes()
    assert committed(run) == [2, 4, 6]


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize("word", ["seed=1", "data.train_prompts=24"])
def test_a_run_that_would_become_another_is_refused(
    program: Program, reference: Path, tmp_path: Path, word: str
) -> None:
    run = shutil.copytree(reference, tmp_path / "run")
    before = contents(run)
    line = check_one_line(program.run("resume", str(run), "steps=8", word), 5)
    name = {"seed=1": "seed was 0, here it is 1", "data.train_prompts=24": "data was 26 prompts"}[word]
    assert f"checkpoints/step-00000006 is of another run: its {name}" in line
    after = contents(run)
    assert {name for name in after if after[name] != before.get(name)} <= {"log.txt"}


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_second_process_is_refused(program: Program, reference: Path, tmp_path: Path) -> None:
    run = shutil.copytree(reference, tmp_path / "run")
    with (run / "log.txt").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        line = check_one_line(program.run("resume", str(run), "steps=8"), 2)
    assert f"another process trains in {run}; end it, or resume a copy" in line
    assert recorded_steps(run) == 6


@pytest.mark.full
@pytest.mark.timeout(900)
def test_other_values_and_pictures_survive_the_next_resume(program: Program, tmp_path: Path) -> None:
    """A run of a relative directory is resumed from elsewhere, with steps of another size; then repaired."""
    words = [word for word in DEMO if not word.startswith(("evaluate.", "steps=", "checkpoint."))]
    evaluated = ("evaluate.at_start=true", "evaluate.prompts=4", "evaluate.group_size=2")
    program.run("train", *words, *evaluated, "steps=1", "run.dir=relative").check()
    run = (program.folder / "relative").rename(tmp_path / "moved")
    outcome = program.run("resume", str(run), "steps=2", "rollout.prompts_per_step=8").check()
    assert "from here on rollout.prompts_per_step is 8, was 4\n" in outcome.out
    assert json.loads((run / "summary.json").read_text())["steps"] == 2
    assert [line["tokens/prompt"] > 0 for line in repeatable(run)] == [True, True]
    state = json.loads((checkpoint(run, 2) / "state.json").read_text())
    assert state["prompts"] == {"None": {"asked": 12, "sizes": [[0, 4], [4, 8]]}}

    before = contents(run)
    for name in ("curves.png", "summary.md"):
        (run / name).unlink()
    outcome = program.run("resume", str(run)).check()
    assert "all 2 steps are done" in outcome.out
    assert "the table and the curves were missing and are made again" in outcome.out
    after = contents(run)
    assert {name for name in before if after.get(name) != before[name]} <= {"log.txt", "curves.png"}
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
