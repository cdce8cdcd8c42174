"""Directories of a sweep's points hold ``=``; every command takes them as the paths that they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megaent.cli import main
from megaent.commands.first_word import is_option


def test_a_path_that_is_there_is_no_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("optim.lr=0.1,seed=0").mkdir()
    assert not is_option("optim.lr=0.1,seed=0")
    assert not is_option("runs/demo")
    assert is_option("optim.lr=0.1")
    assert is_option("data.template=" + "a" * 300), "longer than a file name may be"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("evaluate", "has no config.json, no checkpoints"),
        ("resume", "command.json"),
        ("report", "holds no run"),
        ("watch", "is not a run's directory"),
        ("audit", "holds no"),
    ],
)
def test_an_empty_directory_is_refused_for_what_it_lacks(
    command: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "method=grpo,seed=0"
    folder.mkdir()
    assert main([command, str(folder), *(["--once"] if command == "watch" else [])]) != 0
    assert said in capsys.readouterr().err


def test_a_file_of_prompts_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "level=5.jsonl"
    file.write_text(json.dumps({"question": "1 + 1", "answer": "2"}) + "\n")
    assert main(["data", str(file)]) == 0
    assert "1 row" in capsys.readouterr().out
