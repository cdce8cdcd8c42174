"""A run is watched over its files: what is whole is shown, what is no run is refused."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from megaent.commands.watch import watch
from megaent.errors import DataError
from megaent.report.metrics import JsonLinesWriter


def a_run(path: Path, steps: int) -> Path:
    (path / "config.yaml").write_text("steps: 9\n")
    with JsonLinesWriter(path / "metrics.jsonl") as writer:
        for step in range(1, steps + 1):
            writer.write(step, {"reward/mean": 0.5, "length/truncated": 1.0, "time/step_s": 4.0})
    return path


def shown(*words: str) -> str:
    out = io.StringIO()
    assert watch(list(words), console=Console(file=out, width=80, highlight=False)) == 0
    return out.getvalue()


def test_steps_and_alarms_are_plain_lines_in_a_pipe(tmp_path: Path) -> None:
    lines = shown(str(a_run(tmp_path, 6)), "--once").splitlines()
    assert [line.split("  ")[0] for line in lines[:6]] == [f"step {step}/9" for step in range(1, 7)]
    assert lines[5].endswith("4.00 s/step  left 12s")  # three more of four seconds
    assert lines[6].startswith("alarm  step 5: responses cut: ")
    assert len(lines) == 7


def test_a_cut_line_is_not_shown(tmp_path: Path) -> None:
    with (a_run(tmp_path, 2) / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "rew')
    assert "step 2/9" in shown(str(tmp_path), "--once")
    assert "step 3/9" not in shown(str(tmp_path), "--once")


def test_a_damaged_line_is_left_out_and_the_rest_is_shown(tmp_path: Path) -> None:
    file = a_run(tmp_path, 3) / "metrics.jsonl"
    first, _, third = file.read_text().splitlines()
    file.write_text("\n".join(["garbage \x00", third, '{"step": "2"}', first, ""]))
    lines = shown(str(tmp_path), "--once").splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 1/9", "step 3/9"]


def test_a_finished_run_ends_the_watching(tmp_path: Path) -> None:
    (a_run(tmp_path, 2) / "summary.json").write_text("{}")
    assert "step 2/9" in shown(str(tmp_path))


def test_a_run_without_a_step_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("steps: 9\n")
    assert "has no finished step yet" in shown(str(tmp_path), "--once")


@pytest.mark.parametrize("text", [None, "", "seed: 1\n"], ids=["none", "empty", "other"])
def test_what_is_no_run_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(DataError, match=r"config\.yaml"):
        watch([str(tmp_path), "--once"])
