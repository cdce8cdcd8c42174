"""docs/tables.md: its program runs on a run's tables, and its columns are theirs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.tiny_loop import VOCAB, make_trainer

from megaent.report.tables import TABLES, VERSION
from megaent.run.step_rows import MOST_CHARACTERS, MOST_GROUPS, MOST_TOKENS, StepRows
from megaent.run.table_writer import TableWriter


def document(repository: Path) -> str:
    return (repository / "docs" / "tables.md").read_text(encoding="utf-8")


def write_run(run: Path, *, steps: int) -> float:
    """The entropy of the last step's trained tokens, of every response."""
    trainer = make_trainer()
    trainer.publish(0)
    writer = TableWriter(run, most_mb=10)
    rows = StepRows(spell=str, vocab_size=VOCAB, num_responses=1000)
    for step in range(1, steps + 1):
        report = trainer.step(step)
        writer.write(rows(step, report))
    writer.close()
    return report.metrics["entropy/mean"]


def test_its_program_runs(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entropy = write_run(tmp_path / "runs" / "demo", steps=4)
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(.*?)```", document(repository), re.DOTALL)
    assert len([line for line in program.splitlines() if line]) <= 10
    names: dict = {}
    exec(compile(program, "tables.md", "exec"), names)
    last = names["trained"][names["trained"]["step"] == 4]
    assert last["entropy"].mean() == pytest.approx(entropy, rel=1e-5)
    assert names["steps"].loc[4, "entropy/mean"] == entropy
    assert names["by_step"].index.tolist() == [1, 2, 3, 4]


def test_it_explains_every_column(repository: Path) -> None:
    sections = re.split(r"(?m)^## `(\w+)`$", document(repository))[1:]
    said = {
        name: dict(re.findall(r"(?m)^\| `(\w+)` \| (\w+) \|", text))
        for name, text in zip(sections[::2], sections[1::2], strict=True)
    }
    assert said == TABLES


def test_it_tells_the_limits(repository: Path) -> None:
    text = " ".join(document(repository).split())
    assert f"It is {VERSION}." in text
    assert f"at most {MOST_GROUPS} groups a step" in text
    assert f"The first {MOST_TOKENS} tokens of each" in text
    assert f"the first {MOST_CHARACTERS} characters" in text
