"""Files of questions: the forms that are understood, the errors that name a line, splits that do not leak."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from megaent.data.jsonl import JsonlOptions
from megaent.data.registry import load_task
from megaent.data.rows import LeftOut, Row, read_rows, read_text_key
from megaent.data.task import Task
from megaent.errors import ConfigError, DataError, ModelError

GSM8K = {"question": "Tom has 3 eggs and buys 40. How many?", "answer": "3 + 40 = <<3+40=43>>43\n#### 1,043"}
MATH = {"problem": "Halve one.", "solution": "It is $\\boxed{\\frac{1}{2}}$, as \\{x\\} shows.", "level": 1}


def write(folder: Path, rows: list[object], name: str = "data.jsonl") -> Path:
    text = json.dumps(rows) if name.endswith(".json") else "".join(json.dumps(row) + "\n" for row in rows)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def load(path: Path, model: Path, *, max_prompt_tokens: int = 1000, **options: object) -> Task:
    config = replace(JsonlOptions(path=str(path)), **options)
    return load_task(config, model, max_prompt_tokens=max_prompt_tokens)


def read(path: Path, *, drop_unusable: bool = False, **keys: str) -> list[Row]:
    left_out = LeftOut(may_drop=drop_unusable)
    rows = read_rows(str(path), left_out, **keys)
    left_out.settle(str(path))
    return rows


def numbered(count: int, *, start: int = 0) -> list[object]:
    return [{"question": f"What is {i} + 1?", "answer": i + 1} for i in range(start, start + count)]


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        (GSM8K, "1,043"),
        (MATH, "\\frac{1}{2}"),
        ({"problem": "p", "solution": "long talk, then \\boxed{7}", "answer": "7"}, "7"),
        ({"question": "p", "solution": ["prose without a mark"], "final_answer": ["$2n$"]}, "2n"),
        ({"question": "p", "final_answer": ["3", "5"]}, "3, 5"),
        ({"prompt": "p", "target": 27.0}, "27.0"),
        ({"input": "p", "answer": -0.5}, "-0.5"),
        ({"question": "p", "answer": "\\text{June 20}"}, "\\text{June 20}"),
        ({"question": "p", "answer": "\\boxed{1} or rather \\boxed{\\{1,2\\}}"}, "\\{1,2\\}"),
    ],
)
def test_every_usual_form_is_understood(tmp_path: Path, row: object, answer: str) -> None:
    for name in ("data.jsonl", "data.json"):
        path = write(tmp_path, [row], name)
        assert [r.answer for r in read(path)] == [answer]


def test_named_keys_come_first(tmp_path: Path) -> None:
    path = write(tmp_path, [{"question": "no", "answer": "no", "ask": "yes?", "key": "4"}])
    [row] = read(path, question_key="ask", answer_key="key")
    assert (row.question, row.answer) == ("yes?", "4")


def test_chat_prompts_are_the_template_and_nothing_more(tmp_path: Path, byte_model: Path) -> None:
    task = load(write(tmp_path, [GSM8K]), byte_model, eval_fraction=0.0, instruction="Box it.")
    assert task.train[0].text == f"<user>{GSM8K['question']}\nBox it.<model>"
    assert task.decode(task.train[0].tokens) == task.train[0].text
    assert task.stop_token_ids == (0, 1)
    assert (task.grader, task.grader_options) == ("math", {"timeout_s": 2.0})
    assert task.step_boundary == "\n\n"


def test_plain_prompts_are_question_and_instruction(tmp_path: Path, byte_model: Path) -> None:
    task = load(write(tmp_path, [GSM8K]), byte_model, template="plain", eval_fraction=0.0, instruction="")
    assert task.train[0].text == f"{GSM8K['question']}\n"


def test_a_hash_of_the_question_decides_its_side(tmp_path: Path, byte_model: Path) -> None:
    rows = numbered(400)
    whole = load(write(tmp_path, rows), byte_model, eval_fraction=0.25)
    half = load(write(tmp_path, rows[::2]), byte_model, eval_fraction=0.25)
    train, evaluation = ({p.id for p in prompts} for prompts in (whole.train, whole.evaluation))
    assert len(train) + len(evaluation) == 400
    assert not train & evaluation
    # A binomial count: 4 standard deviations are 4 * sqrt(400 * 0.25 * 0.75) = 35.
    assert abs(len(evaluation) - 100) < 35
    assert {p.id for p in half.evaluation} <= evaluation


def test_copies_of_a_question_keep_unique_ids_on_one_side(tmp_path: Path, byte_model: Path) -> None:
    task = load(write(tmp_path, numbered(40) * 3), byte_model, eval_fraction=0.3)
    everything = [*task.train, *task.evaluation]
    assert len({p.id for p in everything}) == 120
    assert not {p.text for p in task.train} & {p.text for p in task.evaluation}


def test_ids_do_not_depend_on_the_place_in_the_file(tmp_path: Path, byte_model: Path) -> None:
    forwards = load(write(tmp_path, numbered(20)), byte_model)
    backwards = load(write(tmp_path, numbered(20)[::-1]), byte_model)
    assert forwards == backwards or (forwards.train, forwards.evaluation) == (
        backwards.train,
        backwards.evaluation,
    )


def test_a_share_of_the_questions_can_be_asked_for(tmp_path: Path, byte_model: Path) -> None:
    path = write(tmp_path, numbered(50))
    some = load(path, byte_model, train_prompts=10, eval_fraction=0.0)
    others = load(path, byte_model, train_prompts=10, eval_fraction=0.0, seed=1)
    assert len(some.train) == len(others.train) == 10
    assert {p.id for p in some.train} != {p.id for p in others.train}


def test_evaluation_questions_must_not_be_trained_on(tmp_path: Path, byte_model: Path) -> None:
    train, other = write(tmp_path, numbered(9)), write(tmp_path, numbered(5, start=8), "eval.jsonl")
    with pytest.raises(DataError, match=r"1 are: the first is .*eval.jsonl line 1 and .*data.jsonl line 9"):
        load(train, byte_model, eval_path=str(other))
    task = load(train, byte_model, eval_path=str(write(tmp_path, numbered(5, start=9), "eval.jsonl")))
    assert (len(task.train), len(task.evaluation)) == (9, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold at least one question, got an empty file"),
        ("\n  \n", "must hold at least one question"),
        (
            '{"question": "a", "answer": "1"}\n\n{"question": "b", \n',
            "line 3: each line must be one JSON object",
        ),
        (
            '{"question": "a", "answer": "1"}\n[1]\n',
            "line 2: expected a JSON object or a list of turns, got list",
        ),
        (
            '{"q": "a", "answer": "1"}',
            "line 1: expected the key question or problem or .*, got q, answer; name",
        ),
        (
            '{"question": "a", "a": "1"}',
            "line 1: expected the key answer or .*, got question, a; name .*answer_key",
        ),
        (
            '{"question": "", "answer": "1"}',
            "line 1: the question must be text, or a list of turns, got question=''",
        ),
        (
            '{"question": "a", "answer": null}',
            "line 1: the answer cannot be graded: it must be text or a number",
        ),
        ('{"question": "a", "answer": "talk ####  "}', "line 1: .* its final answer is empty"),
        ('{"question": "a", "answer": "\\\\boxed{1"}', "line 1: .* its final answer is empty"),
        (
            '{"question": "a", "answer": "\\\\frac{1}{2"}',
            "line 1: .* braces of its final answer do not match",
        ),
        (
            json.dumps({"question": "a", "answer": "word " * 20}),
            "line 1: .* an explanation that marks no final",
        ),
        (json.dumps({"question": "a", "answer": "1" * 2000}), "line 1: .* 2000 characters; at most 1000"),
        ("[" * 100_000, "line 1: each line must be one JSON object"),
    ],
)
def test_what_cannot_be_used_is_named_by_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as raised:
        read(path)
    assert str(path) in str(raised.value)


def test_all_unusable_rows_are_named_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, [{"question": "a", "answer": a} for a in ("1", None, "2", "")], "data.json")
    with pytest.raises(DataError, match=re.compile("2 rows are unusable.*row 2.*row 4", re.DOTALL)):
        read(path)


def test_other_unusable_files_say_what_was_expected(tmp_path: Path, byte_model: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read(tmp_path / "absent.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "\xe9"}')
    with pytest.raises(DataError, match="must be UTF-8"):
        read(tmp_path / "latin.jsonl")
    (tmp_path / "object.json").write_text('{"data": []}')
    with pytest.raises(DataError, match="expected the key question"):
        read(tmp_path / "object.json")
    with pytest.raises(ModelError, match=r"must be a Hugging Face folder with a config.json"):
        load(write(tmp_path, [GSM8K]), tmp_path)


def test_a_prompt_that_does_not_fit_names_its_line(tmp_path: Path, byte_model: Path) -> None:
    path = write(tmp_path, [*numbered(2), {"question": "x" * 300, "answer": "1"}])
    with pytest.raises(DataError, match=r"line 3: the prompt has \d{3} tokens, .* leaves room for 200"):
        load(path, byte_model, max_prompt_tokens=200, eval_fraction=0.0)


def test_unusual_line_separators_inside_text_do_not_break_a_line(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('\ufeff{"question": "a\u2028b\x85c", "answer": "1"}\r\n', encoding="utf-8")
    [row] = read(path)
    assert row.question == "a\u2028b\x85c"


# The same forms are generated above; the published files, where they are at hand, add their size.
if "MEGAENT_DATA" in os.environ:
    PUBLISHED = {"gsm8k.jsonl": 1319, "math500.jsonl": 500, "olympiadbench.jsonl": 675, "amc23.jsonl": 40}

    @pytest.mark.parametrize("name", PUBLISHED)
    def test_published_sets_load_whole(name: str) -> None:
        path = Path(os.environ["MEGAENT_DATA"]) / name
        assert len(read(path)) == PUBLISHED[name]


def test_unusable_rows_are_left_out_when_asked_for_and_said(tmp_path: Path, byte_model: Path) -> None:
    rows = [*numbered(2), {"question": "2 + 2?", "answer": None}, {"question": "x" * 300, "answer": "1"}]
    task = load(
        write(tmp_path, rows), byte_model, max_prompt_tokens=200, drop_unusable=True, eval_fraction=0.0
    )
    assert sorted(prompt.answer for prompt in task.train) == ["1", "2"]
    told = task.notes[0]
    assert (
        "question, answer; 2 rows used; 2 left out (1 without an answer key, 1 too long; the first: " in told
    )
    assert "line 3" in told
    assert "the key of the first is '1'" in told


def test_an_empty_answer_beside_a_solution_is_read_off_the_solution(tmp_path: Path) -> None:
    path = write(tmp_path, [{"problem": "2 + 2?", "answer": "", "solution": "It is \\boxed{4}."}])
    [row] = read(path)
    assert row.answer == "4"


def test_a_number_keeps_the_text_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    texts = ["27.0", "0.10", "1e-7", "3e33", "123456789012345678.25", "-7"]
    path.write_text("".join(f'{{"question": "q{n}", "answer": {t}}}\n' for n, t in enumerate(texts)))
    assert [row.answer for row in read(path)] == texts


def test_what_is_no_number_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"question": "a", "answer": 1}\n{"question": "b", "answer": NaN}\n')
    with pytest.raises(DataError, match="line 2: the answer cannot be graded: it is nan"):
        read(path)


def test_a_file_of_programs_is_read(tmp_path: Path, byte_model: Path) -> None:
    rows = [{"question": f"Add {n}.", "test_list": [f"assert add(1) == {n + 1}"]} for n in range(40)]
    file = tmp_path / "programs.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    options = JsonlOptions(path=str(file), answer_key="test_list", reward="code", template="plain")
    task = load_task(options, byte_model, max_prompt_tokens=500)
    assert len(task.train) + len(task.evaluation) == 40
    assert task.grader_options == {"timeout_s": 2.0, "without": ""}
    assert "```python" in task.train[0].text
    assert "assert" not in task.train[0].text
    with pytest.raises(ConfigError, match=r"of data\.reward=code alone"):
        JsonlOptions(path=str(file), sandbox_without="seccomp")
    with pytest.raises(ConfigError, match="must be named from"):
        JsonlOptions(path=str(file), reward="code", sandbox_without="chroot")


def test_keys_of_a_remote_verifier_are_sent_as_they_are(tmp_path: Path, byte_model: Path) -> None:
    assert read_text_key("a rubric") == "a rubric"
    for nothing in (None, ""):
        with pytest.raises(ValueError, match="empty"):
            read_text_key(nothing)
    rows = [{"question": f"Draw {n}.", "answer": {"points": ["é", n]}} for n in range(30)]
    options = JsonlOptions(
        path=str(write(tmp_path, rows)), reward="remote", template="plain", remote_url="http://a/b"
    )
    task = load_task(options, byte_model, max_prompt_tokens=500)
    keys = {prompt.answer for prompt in (*task.train, *task.evaluation)}
    assert keys == {json.dumps({"points": ["é", n]}, ensure_ascii=False) for n in range(30)}
    assert task.grader_options == {"url": "http://a/b", "batch": 64, "timeout_s": 60.0}
    with pytest.raises(ConfigError, match=r"data\.remote_url must be an address .* got ''"):
        JsonlOptions(path="x", reward="remote+0.1*boxed")
    with pytest.raises(ConfigError, match=r"data\.remote_url is of data\.reward=remote alone"):
        JsonlOptions(path="x", remote_url="http://a/b")
