"""What a run says and keeps of its prompts: ends, the first prompt, the date of a chat template."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest
from support.byte_tokenizer import ROWS, save_tokenizer
from support.real_shapes import REAL, save_shape
from support.runs import Program

from megaent.run.command_record import read_command

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

CHAT = (
    "Today Date: {{ strftime_now('%d %b %Y') }}\n"
    "{% for m in messages %}<s>{{ m.content }}<|turn|>{% endfor %}<think>"
)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return Program(tmp_path_factory.mktemp("prompts"))


@pytest.fixture(scope="module")
def folder(program: Program) -> Path:
    folder = save_shape(
        program.folder / "model", REAL["llama-3.2"] | {"vocab_size": ROWS, "eos_token_id": [257, 259]}
    )
    config = (folder / "config.json").read_text()
    save_tokenizer(folder)
    (folder / "config.json").write_text(config)
    (folder / "chat_template.jinja").write_text(CHAT)
    rows = [{"question": f"What is {n} + 1? [b]", "answer": str(n + 1)} for n in range(20)]
    (program.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def words(folder: Path, run: Path, *more: str) -> tuple[str, ...]:
    return (
        f"model.path={folder}",
        f"data.path={folder.parent / 'rows.jsonl'}",
        "steps=1",
        "rollout.prompts_per_step=2",
        "rollout.group_size=2",
        "rollout.max_new_tokens=4",
        "run.tensorboard=false",
        "run.responses_kept=9",
        f"run.dir={run}",
        *more,
    )


def test_a_run_shows_what_it_asks_and_keeps_the_date(program: Program, folder: Path) -> None:
    run = program.folder / "run"
    before = datetime.date.today()
    outcome = program.run("train", *words(folder, run)).check()
    assert "responses end with '</s>' (257), '<|turn|>' (259)" in outcome.out
    assert "opens '<think>' itself" in outcome.out
    prompt = (run / "prompt.txt").read_text()
    assert "\n".join(f"  | {line}" for line in prompt.split("\n")) in outcome.out
    record = read_command(run)
    day = datetime.date.fromisoformat(record.date)
    assert before <= day <= datetime.date.today()
    assert prompt.startswith(f"Today Date: {day:%d %b %Y}\n<s>What is ")
    assert prompt.endswith("<|turn|><think>")

    # As if the run had begun on another day: what is asked next is asked on that day.
    file = run / "command.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"date": "2001-02-03"}))
    program.run("resume", str(run), "steps=2").check()
    second = (run / "responses.md").read_text().partition("## step 2")[2]
    assert second.count("Today Date: 03 Feb 2001\n") == 2


def test_the_date_can_be_chosen(program: Program, folder: Path) -> None:
    run = program.folder / "chosen"
    program.run("train", *words(folder, run, "data.date=2024-07-26")).check()
    assert (run / "prompt.txt").read_text().startswith("Today Date: 26 Jul 2024\n")
    outcome = program.run("train", *words(folder, program.folder / "none", "data.date=26.7.2024"))
    assert outcome.code == 2
    assert "data.date must be a day as YYYY-MM-DD" in outcome.err


def test_a_template_without_clock_records_no_date(program: Program, folder: Path) -> None:
    run = program.folder / "plain"
    outcome = program.run("train", *words(folder, run, "data.template=plain")).check()
    assert read_command(run).date == ""
    assert "What is " in (run / "prompt.txt").read_text()
    assert "data.date" not in outcome.out
