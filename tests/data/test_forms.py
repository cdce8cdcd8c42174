"""Rows in the columns that published sets have (made-up contents), and rows that fit no way or two."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from megaent.answers.key import read_key
from megaent.data.forms import read_form
from megaent.errors import DataError

USER = {"role": "user", "content": "Halve one."}
SYSTEM = {"role": "system", "content": "Be brief."}

# name -> (row, who says what, key)
LETTERED = [("user", "Q\n(A) x\n(B) y")]

FORMS: dict[str, tuple[Any, list[tuple[str, str]] | None, str]] = {
    "GSM8K": ({"question": "Q", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"}, [("user", "Q")], "2"),
    "MATH": (
        {"problem": "Q", "level": "Level 5", "type": "Algebra", "solution": "So \\boxed{\\frac12}."},
        [("user", "Q")],
        "\\frac12",
    ),
    "DeepScaleR": (
        {"problem": "Q", "answer": "-\\frac{2}{3}", "solution": "…"},
        [("user", "Q")],
        "-\\frac{2}{3}",
    ),
    "DAPO-Math-17k": (
        {
            "data_source": "math_dapo",
            "prompt": [USER],
            "ability": "MATH",
            "reward_model": {"ground_truth": "34", "style": "rule"},
            "extra_info": {"index": "a"},
        },
        [("user", "Halve one.")],
        "34",
    ),
    "Skywork-OR1": (
        {"prompt": [USER], "reward_model": {"ground_truth": json.dumps(["\\frac{1}{2}"])}},
        [("user", "Halve one.")],
        "\\frac{1}{2}",
    ),
    "ORZ": (
        [
            {"from": "human", "value": "Q"},
            {"from": "assistant", "ground_truth": {"value": "16", "pass_at_n": 0.5}},
        ],
        [("user", "Q")],
        "16",
    ),
    "OpenR1-Math": (
        {
            "problem": "Q",
            "solution": "…",
            "answer": "v=6",
            "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "long"}],
            "generations": ["a", "b"],
        },
        [("user", "Q")],
        "v=6",
    ),
    "NuminaMath": (
        {"source": "olympiads", "problem": "Q", "solution": "Hence $\\boxed{7}$.", "messages": [USER]},
        [("user", "Q")],
        "7",
    ),
    "DeepMath": (
        {"question": "Q", "final_answer": "\\infty", "r1_solution_1": "…"},
        [("user", "Q")],
        "\\infty",
    ),
    "Big-Math": (
        {"problem": "Q", "answer": "90", "source": "s", "domain": [], "llama8b_solve_rate": 0.3},
        [("user", "Q")],
        "90",
    ),
    "AIME on the hub": (
        {"ID": "2024-I-1", "Problem": "Q", "Solution": "…", "Answer": 33},
        [("user", "Q")],
        "33",
    ),
    "OlympiadBench": (
        {"id": 7, "question": "Q", "solution": ["…"], "final_answer": ["$3$"], "is_multiple_answer": False},
        [("user", "Q")],
        "3",
    ),
    "instruction and output": (
        {"instruction": "Add.", "input": "1, 2", "output": "\\boxed{3}"},
        [("user", "Add.\n1, 2")],
        "3",
    ),
    "query and response": ({"query": "Q", "response": "#### 5"}, [("user", "Q")], "5"),
    "turns with a system prompt": (
        {"messages": [SYSTEM, USER, {"role": "assistant", "content": "\\boxed{.5}"}]},
        [("system", "Be brief."), ("user", "Halve one.")],
        ".5",
    ),
    "choices by letter": (
        {"question": "Q", "choices": ["x", "y"], "answer": "B"},
        LETTERED,
        "B",
    ),
    "labels in brackets": (
        {"question": "Q", "choices": {"text": ["x", "y"], "label": ["(A)", "(B)"]}, "answer": "(B)"},
        LETTERED,
        "B",
    ),
    "a table's empty places": (
        {"question": "Q", "choices": {"A": "x", "B": "y", "C": None, "D": None}, "answer": "B"},
        LETTERED,
        "B",
    ),
    "a picture of nothing": (
        {"question": "Q", "image": {"bytes": None, "path": None}, "answer": 5},
        [("user", "Q")],
        "5",
    ),
    "choices by index": (
        {"question": "Q", "choices": ["x", "y"], "answer": 1},
        LETTERED,
        "B",
    ),
    "choices by text": (
        {"question": "Q", "options": ["x", "y"], "answer": "y"},
        LETTERED,
        "B",
    ),
    "ARC": (
        {"question": "Q", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "A"},
        LETTERED,
        "A",
    ),
    "ARC, numbered": (
        {"question": "Q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "1"},
        LETTERED,
        "A",
    ),
    "choices with a label each": (
        {
            "question": "Q",
            "choices": [{"label": "1", "text": "x"}, {"label": "2", "text": "y"}],
            "answerKey": "2",
        },
        LETTERED,
        "B",
    ),
    "AQuA": ({"question": "Q", "options": ["A)x", "B)y"], "rationale": "…", "correct": "B"}, LETTERED, "B"),
    "choices that say their letters": (
        {"question": "Q", "options": ["A. x", "B. y"], "answer": "B. y"},
        LETTERED,
        "B",
    ),
    "choices as JSON text": ({"question": "Q", "choices": '["x", "y"]', "answer": "B"}, LETTERED, "B"),
    "CMMLU": ({"Question": "Q", "A": "x", "B": "y", "Answer": "B"}, LETTERED, "B"),
    "MedMCQA": ({"question": "Q", "opa": "x", "opb": "y", "label": 0}, LETTERED, "A"),
    "numbered columns": ({"question": "Q", "option1": "x", "option2": "y", "answer": "1"}, LETTERED, "A"),
    "slime": ({"messages": [USER], "label": "5"}, [("user", "Halve one.")], "5"),
    "OpenRLHF": ({"input": "Q", "label": 5}, [("user", "Q")], "5"),
    "turns as JSON text": (
        {"prompt": json.dumps([SYSTEM, USER]), "reward_model": json.dumps({"ground_truth": "5"})},
        [("system", "Be brief."), ("user", "Halve one.")],
        "5",
    ),
    "text that begins as JSON does": ({"question": "[{1}, 2] has what length?", "answer": 2}, None, "2"),
    "parts of text": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}], "answer": "5"},
        [("user", "Q")],
        "5",
    ),
    "ShareGPT": (
        {
            "system": "Be brief.",
            "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "\\boxed{5}"}],
        },
        [("system", "Be brief."), ("user", "Q")],
        "5",
    ),
    "a system prompt of its own": (
        {"system_prompt": "Be brief.", "question": "Q", "answer": "5"},
        [("system", "Be brief."), ("user", "Q")],
        "5",
    ),
    "two system prompts": (
        {"system": "Never mind.", "messages": [SYSTEM, USER], "answer": "5"},
        [("system", "Be brief."), ("user", "Halve one.")],
        "5",
    ),
    "SVAMP": (
        {"Body": "Two of three.", "Question": "How many?", "Answer": 1.0},
        [("user", "Two of three.\n\nHow many?")],
        "1",
    ),
    "LogiQA": (
        {"context": "Text.", "query": "Q", "options": ["x", "y"], "correct_option": 1},
        [("user", "Text.\n\nQ\n(A) x\n(B) y")],
        "B",
    ),
    "a passage that the question holds": (
        {"passage": "Text.", "question": "Text. What?", "answer": "5"},
        [("user", "Text. What?")],
        "5",
    ),
    "no picture": ({"question": "Q", "image": "", "images": [], "answer": "5"}, [("user", "Q")], "5"),
}


@pytest.mark.parametrize("name", FORMS)
def test_published_forms_are_read_without_being_told(name: str) -> None:
    row, turns, key = FORMS[name]
    asked = read_form(row)
    assert list(asked.turns) == (turns or [("user", row["question"])])
    assert read_key(asked.answer) == key


def test_keys_reach_into_other_columns() -> None:
    row = {"prompt": [USER], "question": "other", "reward_model": {"ground_truth": "1"}, "answer": "2"}
    asked = read_form(row, question_key="prompt.0.content", answer_key="reward_model.ground_truth")
    assert (asked.turns, asked.answer) == ((("user", "Halve one."),), "1")
    assert read_form({"a.b": "q", "c": "3"}, question_key="a.b", answer_key="c").turns == (("user", "q"),)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "A", "problem": "B", "answer": "1"}, r"question='A' or problem='B'; choose by data\.q"),
        ({"question": "A", "answer": "1", "ground_truth": "2"}, r"answer='1' or ground_truth='2'; choose by"),
        ({"question": "A", "choices": ["1", "2", "3"], "answer": 2}, r"answer 2 could be B or C: A '1'"),
        ({"question": "A", "choices": ["x", "y"], "answer": "z"}, "answer 'z' is none of them"),
        ({"text": "A"}, r"expected the key question or .*, got text; name the key by data\.question_key"),
        ({"question": "A", "id": 1}, r"expected the key answer or .*, got question, id"),
        ({"question": "A", "answer": "1", "x": 1}, None),
        ("prose", "expected a JSON object or a list of turns, got str"),
        ({"question": 5, "answer": "1"}, "the question must be text, or a list of turns, got question=5"),
        ({"question": "half \ud835", "answer": "1"}, "half of a surrogate pair"),
        ({"messages": [{"role": "robot", "content": "x"}], "answer": "1"}, "a turn must be"),
        ({"messages": [{"role": "assistant", "content": "x"}], "answer": "1"}, "hold no user's question"),
        ({"question": "A", "choices": {"text": ["x"], "label": ["A", "B"]}, "answer": "A"}, "a label each"),
        ({"question": "A", "choices": "['x', 'y']", "answer": "A"}, "a list of 2 to 26 texts"),
        ({"question": "A", "choices": ["x", "y"], "answer": "A. y"}, "could be A or B"),
        ({"question": "A", "choices": ["x", None, "z"], "answer": "A"}, "texts without a gap"),
        ({"question": "A", "A": "x", "B": "y", "C": "", "D": "z", "answer": "D"}, "texts without a gap"),
        ({"question": "A", "opa": "x", "opb": "y", "opc": None, "opd": "z", "cop": 3}, "texts without a gap"),
        ({"question": "A", "images": ["x.png"], "answer": "1"}, r"shows something \(images="),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}], "answer": "1"}, "a turn must be"),
        ({"prompt": str([USER]), "answer": "1"}, r"as Python prints them, .*; write them as JSON"),
    ],
)
def test_what_fits_no_way_or_two_is_refused(row: Any, message: str | None) -> None:
    if message is None:
        read_form(row)
        return
    with pytest.raises(DataError, match=message):
        read_form(row)


def test_the_same_answer_in_two_columns_is_one() -> None:
    assert read_form({"question": "A", "answer": "1 ", "ground_truth": "1"}).answer == "1 "


def test_the_table_of_forms_is_what_is_read(repository: Path) -> None:
    page = (repository / "docs" / "tasks.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| `([\[{].*[\]}])` \| `([^`]+)` \|$", page, re.MULTILINE)
    assert len(rows) == 17
    for row, key in rows:
        asked = read_form(json.loads(row))
        assert read_key(asked.answer) == key
        assert asked.turns[-1][0] == "user"
