"""``megaent data``: what it tells of a file, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megaent.cli import main

LONG = "A train leaves the station at noon and travels sixty miles an hour toward the city of Springfield"


def written(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_summary_names_what_to_look_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = written(
        tmp_path / "train.jsonl",
        [
            {"question": f"{LONG}; when?", "answer": "3"},
            {"question": "What is 2 + 3?", "answer": "5"},
            {"question": "what is 2+3", "answer": "5"},
            {"question": "Which way?", "answer": "north"},
            {"question": "Why?", "answer": "proof"},
        ],
    )
    test = written(
        tmp_path / "test.jsonl", [{"question": f"Again: {LONG.lower()}. How far?", "answer": "180"}]
    )
    assert main(["data", str(train), f"against={test}"]) == 0
    shown = capsys.readouterr().out
    assert "4 rows can be used, 1 cannot" in shown
    assert "copies of an earlier question: 1\n  train.jsonl line 3 = train.jsonl line 2" in shown
    assert "train.jsonl line 1 = test.jsonl line 1: a train leaves" in " ".join(shown.split())
    assert "shortest 2, half up to 4, longest 19" in shown
    assert max(map(len, shown.splitlines()[1:])) <= 80 or len(str(test)) > 40


def test_a_clean_file_has_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, object]] = [
        {"question": f"{LONG}; when?", "answer": "3"},
        {"question": "What is 2 + 3?", "answer": "5", "level": 1},
        {"question": "what is 2+3", "answer": "5"},
        {"question": "one two three four five six seven", "answer": "8"},
        {"question": "Why?", "answer": "proof"},
    ]
    file, test = (
        written(tmp_path / "a.jsonl", rows),
        written(tmp_path / "t.jsonl", [{"problem": LONG, "answer": 1}]),
    )
    before, out = file.read_bytes(), tmp_path / "clean.jsonl"
    assert main(["data", str(file), f"against={test}", f"out={out}", "longest=6"]) == 0
    assert [json.loads(line) for line in out.read_text().splitlines()] == [rows[1]]
    assert file.read_bytes() == before
    assert main(["data", str(file), f"out={out}"]) == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rows=ten"], "rows must be a whole number"),
        (["again=x"], "against="),
        (["longest=3"], "without out="),
        (["against=/nowhere"], "/nowhere"),
    ],
)
def test_what_it_cannot_do_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    file = written(tmp_path / "a.jsonl", [{"question": "q", "answer": "1"}])
    assert main(["data", str(file), *words]) != 0
    assert said in capsys.readouterr().err


def test_near_copies_are_shown_and_go_when_that_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[dict[str, object]] = [
        {"question": LONG, "answer": "1"},
        {"question": f"{LONG} today", "answer": "2"},
        {"question": "Why?", "answer": "3"},
    ]
    file = written(tmp_path / "a.jsonl", rows)
    for words, kept in (([], rows), (["near=0.9"], [rows[0], rows[2]]), (["near=0.99"], rows)):
        out = tmp_path / f"out{len(kept)}{words}.jsonl"
        assert main(["data", str(file), f"out={out}", *words]) == 0
        assert [json.loads(line) for line in out.read_text().splitlines()] == kept
        is_shown = "a.jsonl line 2 = a.jsonl line 1: 0.93" in capsys.readouterr().out
        assert is_shown == (words != ["near=0.99"])
    assert main(["data", str(file), "near=2"]) == 2
    assert "near must be a number above 0 and at most 1" in capsys.readouterr().err


def test_a_row_that_is_left_out_anyway_takes_no_other_along(tmp_path: Path) -> None:
    """The first of two near copies is too long; the second stays."""
    words = [f"word{n}" for n in range(100)]
    rows = [
        {"question": " ".join([*words, "more"]), "answer": "1"},
        {"question": " ".join(words), "answer": "1"},
    ]
    file, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["data", str(file), "near=0.8", "longest=100", f"out={out}"]) == 0
    assert [json.loads(line) for line in out.read_text().splitlines()] == rows[1:]
