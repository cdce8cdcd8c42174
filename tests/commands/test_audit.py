"""``megaent audit``: what it finds in files and runs, and that 80 columns hold it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from megaent.cli import main
from megaent.commands.audit_findings import find
from megaent.run.recorded import recorded_responses

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None,
    reason="math-verify is missing: `pip install math-verify`",
)

RESPONSES_MD = """## step 3

reward 1 · 9 tokens · stop · entropy 0.250 nats · answer '\\\\frac{1}{2}'
```text
Halve one.
```
````text
So ``` it is $\\boxed{0.5}$.
````
reward 0 · 7 tokens · length · entropy 0.100 nats · answer "it's" · no answer found
```text
What is it?
```
```text
Hm. Let me think about what
it could be.
```
"""


def written(folder: Path, rows: list[object], name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_keys_that_nobody_can_compare_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"question": "a", "answer": "\\frac{1}{2}"},
        {"question": "b", "answer": "proof"},
        {"question": "c", "answer": "\\heartsuit_{17}"},
        {"question": "d"},
    ]
    path = written(tmp_path, rows)
    findings = find(path)
    assert [place for place, _ in findings.unusable] == ["line 2", "line 4"]
    assert [case.key for case in findings.unread_keys()] == ["\\heartsuit_{17}"]
    assert findings.kinds()["number or expression"] == 1
    assert main(["audit", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "4 rows, 2 without a key" in shown
    assert "Rows without a key: 2" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_responses_of_a_file_are_graded_both_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    question = "How many? $3 + 4$"
    right, wrong = "\\boxed{7}", "I tried for long. " * 9 + "\\boxed{8 = 7}"
    path = written(
        tmp_path, [{"question": question, "answer": "7", "responses": [right, wrong, "\\boxed{3 + 4}"]}]
    )
    findings = find(path)
    assert [judged.grade.correct for judged in findings.judged] == [True, False, False]
    # math-verify takes the last side of an equation, and what was copied for an answer.
    assert [judged.case.response for judged in findings.disagreements()] == [wrong, "\\boxed{3 + 4}"]
    assert [judged.case.response for judged in findings.shortest_paid(5)] == [right]
    assert [judged.case.response for judged in findings.longest_unpaid(1)] == [wrong]
    assert main(["audit", str(path), "--rows", "1"]) == 0
    shown = capsys.readouterr().out
    assert "3 responses, 1 paid, 0 without an answer" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_run_is_read_from_what_it_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "responses.md").write_text(RESPONSES_MD, encoding="utf-8")
    first, second = recorded_responses(tmp_path)
    assert (first.place, first.reward, first.key) == ("step 3, prompt 1", 1.0, "\\frac{1}{2}")
    assert (first.question, first.response) == ("Halve one.", "So ``` it is $\\boxed{0.5}$.")
    assert (second.key, second.response) == ("it's", "Hm. Let me think about what\nit could be.")
    assert main(["audit", str(tmp_path)]) == 0
    assert "2 responses, 1 paid, 1 without an answer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.jsonl"], "neither a file nor a run's directory"),
        (["a", "b"], "audit takes one file or run"),
        (["a", "--rows", "many"], "--rows with a number"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_run_without_responses_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(tmp_path)]) == 3
    assert "responses_kept" in capsys.readouterr().err


def test_broken_json_names_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"question": "a", "answer": "1"}\n{"question": \n', encoding="utf-8")
    assert main(["audit", str(path)]) == 3
    assert "line 2: each line must be one JSON object" in capsys.readouterr().err
