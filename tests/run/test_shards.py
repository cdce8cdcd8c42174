"""A run on shards: the same stream and metrics from both readers, after a stop, and under two leaders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.byte_tokenizer import ROWS, save_tokenizer
from support.runs import Program, checkpoint, repeatable, saved_state
from support.same_run import check_same_step
from support.tiny_hf import save_tiny

from megaent.report.tables import read_table

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

STEPS = 4


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """With a model, and shards of questions for it."""
    program = Program(tmp_path_factory.mktemp("shards"))
    model = program.folder / "model"
    save_tokenizer(model)
    save_tiny(model, family="qwen2", tie=True, vocab_size=ROWS, eos_token_id=257)
    rows = [{"question": f"{a} + {b} =", "answer": str(a + b)} for a in range(5) for b in range(5)]
    (program.folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("data.template=plain", "data.instruction=", "data.eval_fraction=0.2", "tokens=40")
    words = (str(program.folder / "sums.jsonl"), f"model={model}", f"out={program.folder / 'sums'}")
    program.run("shard", "--prompts", *words, *options).check()
    return program


@pytest.fixture(scope="module")
def dali(program: Program, pytestconfig: pytest.Config) -> Program:
    python = pytestconfig.rootpath / ".venv-dali" / "bin" / "python"
    if not python.exists():
        pytest.skip("NVIDIA DALI is missing: `./scripts/setup_dali`")
    return Program(program.folder, python=str(python))


def words(program: Program, run: Path, *more: str) -> tuple[str, ...]:
    return (
        "data=shards",
        f"data.path={program.folder / 'sums'}",
        f"model.path={program.folder / 'model'}",
        "data.window=4",
        "rollout.prompts_per_step=6",
        "rollout.group_size=2",
        "rollout.max_new_tokens=4",
        "run.tensorboard=false",
        f"run.dir={run}",
        *more,
    )


@pytest.fixture(scope="module")
def whole(program: Program) -> Path:
    """By the mapped reader, in one go."""
    run = program.folder / "whole"
    program.run("train", *words(program, run, f"steps={STEPS}")).check()
    return run


@pytest.fixture(scope="module")
def stopped(program: Program, dali: Program) -> Path:
    """By DALI, which reads ahead of the checkpoint of its last step."""
    run = program.folder / "stopped"
    dali.run("train", *words(program, run, "steps=2", "data.reader=dali", "data.reader_threads=2")).check()
    return run


def asked(run: Path) -> list[tuple[int, str]]:
    groups = read_table(run, "groups").rows
    return sorted(zip(groups.column("step").to_pylist(), groups.column("prompt_id").to_pylist(), strict=True))


def test_a_run_by_dali_that_is_resumed_is_the_run_by_the_other_reader(
    program: Program, dali: Program, whole: Path, stopped: Path
) -> None:
    run = program.folder / "resumed"
    shutil.copytree(stopped, run)
    dali.run("resume", str(run), f"steps={STEPS}").check()
    assert repeatable(run) == repeatable(whole)
    assert (run / "responses.md").read_text() == (whole / "responses.md").read_text()
    ours, theirs = (saved_state(checkpoint(path, STEPS)) for path in (run, whole))
    assert ours["prompts"] == theirs["prompts"] == {"None": {"asked": 24, "sizes": [[0, 6]]}}
    assert ours["identity"] == theirs["identity"]


def test_two_leaders_go_on_with_the_same_questions(program: Program, whole: Path, stopped: Path) -> None:
    """And the other reader. Of a step's groups the first leader records its own three."""
    run = program.folder / "two"
    shutil.copytree(stopped, run)
    program.torchrun(
        2, "resume", str(run), f"steps={STEPS}", "data.reader=mapped", "data.reader_threads=0"
    ).check()
    ours, theirs = asked(run), asked(whole)
    assert set(ours) < set(theirs)
    assert [step for step, _ in ours] == [1] * 6 + [2] * 6 + [3] * 3 + [4] * 3
    for found, expected in zip(repeatable(run)[2:], repeatable(whole)[2:], strict=True):
        check_same_step(found, expected)


def test_shards_of_another_tokenizer_are_refused_at_the_start(program: Program) -> None:
    other = program.folder / "other"
    shutil.copytree(program.folder / "model", other)
    (other / "tokenizer.json").write_text((other / "tokenizer.json").read_text() + "\n")
    run = program.folder / "refused"
    outcome = program.run("train", *words(program, run, f"model.path={other}"))
    assert outcome.code != 0
    assert "was made by another tokenizer" in outcome.err
    assert not run.exists()


def test_without_dali_its_reader_is_refused_before_torch(program: Program) -> None:
    outcome = program.run("train", *words(program, program.folder / "none", "data.reader=dali"))
    assert outcome.code == 8
    assert "./scripts/setup_dali makes an environment that has it" in outcome.err
    assert "PyTorch" not in outcome.out
