"""``data=shards``: the questions of a file are asked from shards as they would be from the file."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import pytest

from megaent.cli import main
from megaent.data.curriculum import CurriculumOptions
from megaent.data.jsonl import JsonlOptions, load_jsonl
from megaent.data.shard_options import ShardsOptions
from megaent.data.shards import load_shards
from megaent.data.task import PromptSets, Task
from megaent.errors import ConfigError, DataError
from megaent.types import Prompt

ROWS = [
    {"question": f"What is {a} + {b}? \u00e9", "answer": f"= {a + b}\n#### {a + b}", "level": str(a % 3)}
    for a in range(10)
    for b in range(10)
]


def write(file: Path, rows: list[dict]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def shard(file: Path, model: Path, out: Path, *words: str) -> int:
    return main(["shard", "--prompts", str(file), f"model={model}", f"out={out}", "tokens=500", *words])


def made(file: Path, model: Path, out: Path, *words: str) -> Path:
    assert shard(file, model, out, *words) == 0
    return out


def by_id(prompts: object) -> dict[str, Prompt]:
    return {prompt.id: prompt for prompt in prompts}  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, byte_model: Path) -> Path:
    """One file, its shards, and two sets side by side."""
    folder = tmp_path_factory.mktemp("questions")
    write(folder / "all.jsonl", ROWS)
    made(folder / "all.jsonl", byte_model, folder / "all", "data.eval_fraction=0.2")
    for name, rows in (("ten", ROWS[:60]), ("rest", ROWS[60:])):
        made(write(folder / f"{name}.jsonl", rows), byte_model, folder / "two" / name, "data.eval_fraction=0")
    return folder


@pytest.mark.parametrize("reader", ["mapped", "memory"])
@pytest.mark.parametrize("template", ["chat", "plain"])
def test_shards_hold_what_the_file_holds(
    tmp_path: Path, folder: Path, byte_model: Path, template: str, reader: str
) -> None:
    words = (f"data.template={template}", "data.eval_fraction=0.2", "data.instruction=Think.")
    out = made(folder / "all.jsonl", byte_model, tmp_path / "out", *words)
    options = JsonlOptions(
        path=str(folder / "all.jsonl"), template=template, eval_fraction=0.2, instruction="Think."
    )
    expected = load_jsonl(options, byte_model, max_prompt_tokens=500)
    found = load_shards(ShardsOptions(path=str(out), reader=reader), byte_model)
    assert by_id(found.train) == by_id(expected.train)
    assert by_id(found.evaluation) == by_id(expected.evaluation)
    assert len(found.train) == len(expected.train) > 70
    assert len(found.evaluation) == len(expected.evaluation) > 10
    assert isinstance(found.train, PromptSets)
    assert found.train.longest == max(len(prompt.tokens) for prompt in expected.train)
    assert (found.stop_token_ids, found.grader) == (expected.stop_token_ids, expected.grader)
    assert found.train[3:5] == [found.train[3], found.train[4]]


def test_any_number_of_held_out_questions_is_a_fair_sample(folder: Path, byte_model: Path) -> None:
    """In the order of the file the first ones would all be sums of 0."""
    evaluation = load_shards(ShardsOptions(path=str(folder / "all")), byte_model).evaluation
    assert sorted(prompt.id for prompt in evaluation) == [prompt.id for prompt in evaluation]


# ---------------------------------------------------------------- what a step asks


def steps(task: Task, count: int, per_step: int = 8, **leader: int) -> list[list[str]]:
    stream = task.stream(per_step=per_step, seed=1)
    return [[p.id for _, p in stream.take(step * per_step, **leader)] for step in range(count)]


@pytest.mark.parametrize("weights", ["", "3*ten+rest"])
def test_no_question_comes_twice_in_a_step(folder: Path, byte_model: Path, weights: str) -> None:
    task = load_shards(ShardsOptions(path=str(folder / "two"), weights=weights, window=8), byte_model)
    asked = steps(task, 60)
    assert all(len(set(step)) == 8 for step in asked)
    counts = Counter(name for step in asked for name in step)
    assert set(counts) == {prompt.id for prompt in task.train}
    ten = {p.id for p in load_shards(ShardsOptions(path=str(folder / "two" / "ten")), byte_model).train}
    of_ten = sum(count for name, count in counts.items() if name in ten)
    assert of_ten == round(480 * (3 / 4 if weights else 60 / 100))
    for names in (ten, set(counts) - ten):
        assert max(counts[name] for name in names) - min(counts[name] for name in names) <= 1


def test_leaders_share_each_step(folder: Path, byte_model: Path) -> None:
    """Also where their number does not divide it."""
    task = load_shards(ShardsOptions(path=str(folder / "two")), byte_model)
    whole = steps(task, 20)
    for leaders in (2, 3):
        parts = [task.stream(per_step=8, seed=1) for _ in range(leaders)]
        for number, step in enumerate(whole):
            taken = chain(*(part.take(8 * number, leader=r, leaders=leaders) for r, part in enumerate(parts)))
            assert [p.id for _, p in sorted(taken, key=lambda pair: pair[0])] == step


def test_steps_may_be_asked_for_in_any_order(folder: Path, byte_model: Path) -> None:
    task = load_shards(ShardsOptions(path=str(folder / "all"), window=8), byte_model)
    whole = steps(task, 40)
    stream = task.stream(per_step=8, seed=1)
    order = [0, 2, 1, 3, 3, 39, 17, 18, 20, 19, 0]
    assert [[p.id for _, p in stream.take(8 * step)] for step in order] == [whole[step] for step in order]
    stream = task.stream(per_step=8, seed=1)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda step: [p.id for _, p in stream.take(8 * step)], range(40)))
    assert found == whole


def test_a_step_of_another_size_goes_on_where_the_last_one_ended(folder: Path, byte_model: Path) -> None:
    task = load_shards(ShardsOptions(path=str(folder / "all"), window=8), byte_model)
    flow = list(chain(*steps(task, 40)))
    stream = task.stream(per_step=5, seed=1).part(None, sizes=((0, 8), (24, 5)))
    assert [p.id for step in range(20) for _, p in stream.take(24 + 5 * step)] == flow[24:124]


def test_a_part_asks_some_of_the_questions(folder: Path, byte_model: Path) -> None:
    task = load_shards(ShardsOptions(path=str(folder / "two")), byte_model)
    chosen = [prompt.id for prompt in task.train][::2]
    part = task.stream(per_step=4, seed=1).part(chosen, sizes=((0, 4),))
    asked = [[p.id for _, p in part.take(4 * step)] for step in range(50)]
    assert {name for step in asked for name in step} == set(chosen)
    assert all(len(set(step)) == 4 for step in asked)


def test_identity_knows_what_decides_the_order(folder: Path, byte_model: Path) -> None:
    def digest(**options: object) -> str:
        train = load_shards(ShardsOptions(path=str(folder / "two"), **options), byte_model).train  # type: ignore[arg-type]
        assert isinstance(train, PromptSets)
        return train.digest

    assert digest() == digest(reader="memory")
    assert len({digest(), digest(window=7), digest(weights="ten+2*rest")}) == 3


# ---------------------------------------------------------------- what is refused


def test_shards_of_another_tokenizer_are_refused(tmp_path: Path, folder: Path, byte_model: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in byte_model.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "tokenizer.json").write_text((byte_model / "tokenizer.json").read_text() + "\n")
    with pytest.raises(DataError, match="made by another tokenizer"):
        load_shards(ShardsOptions(path=str(folder / "all")), other)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"reader": "fast"}, "data.reader must be one of mapped, memory, dali"),
        ({"reader_threads": 2}, "is of data.reader=dali alone"),
        ({"train_prompts": 5}, "has no effect on shards"),
        ({"window": 0}, "data.window must be above 0"),
        ({"weights": "0*a"}, "each once, with weights above 0"),
        ({"weights": "a+a"}, "each once, with weights above 0"),
        ({"weights": "x*a"}, "each once, with weights above 0"),
        ({"weights": "2*a", "curriculum": CurriculumOptions(by="accuracy")}, "have no effect then"),
        ({"reader": "dali", "curriculum": CurriculumOptions(by="accuracy")}, "have no effect then"),
    ],
)
def test_options_without_effect_are_refused(options: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        ShardsOptions(path="shards", **options)


def test_sets_that_cannot_be_asked_are_refused(tmp_path: Path, folder: Path, byte_model: Path) -> None:
    def refuses(told: str, **options: object) -> None:
        with pytest.raises(DataError, match=told):
            load_shards(ShardsOptions(**options), byte_model).stream(per_step=40, seed=0)  # type: ignore[arg-type]

    texts = tmp_path / "texts"
    write(tmp_path / "texts.jsonl", [{"text": "a"}])
    assert main(["shard", str(tmp_path / "texts.jsonl"), f"model={byte_model}", f"out={texts}"]) == 0
    refuses("holds texts, not questions with keys", path=str(texts))
    refuses("must be a folder of shards, or hold some", path=str(tmp_path / "none"))
    refuses("data.reward=code does not read", path=str(folder / "all"), reward="code")
    refuses("must name rest, ten and nothing else; odd", path=str(folder / "two"), weights="odd")
    refuses("up to 40 of them are asked in a step, which needs 120", path=str(folder / "all"))
    refuses("60 questions are in", path=str(folder / "two" / "ten"), eval_path=str(folder / "two" / "ten"))


@pytest.mark.parametrize(
    ("rows", "words", "told"),
    [
        ([{"question": "Q", "answer": "n/a"}], [], "rows.jsonl line 1"),
        ([{"question": "Q", "answer": "1"}, {"question": "Q", "answer": "2"}], [], "has another key, '2'"),
        ([{"question": "Q" * 50, "answer": "1"}], ["longest=20"], "leaves room for 20"),
        ([{"question": "Q", "answer": "1"}], ["data.template=odd"], "data.template must be chat or plain"),
        ([{"question": "Q", "answer": "1"}], ["data.tempalte=chat"], "Key 'tempalte' not in 'JsonlOptions'"),
        ([{"question": "Q", "answer": "1"}], ["column=text"], "shard takes --prompts, a file"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(
    tmp_path: Path,
    byte_model: Path,
    rows: list[dict],
    words: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = write(tmp_path / "rows.jsonl", rows)
    assert shard(file, byte_model, tmp_path / "out", "data.eval_fraction=0", *words) != 0
    assert told in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_rows_may_be_left_out_and_copies_are(
    tmp_path: Path, byte_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*ROWS[:20], ROWS[3], {"question": "Q", "answer": "n/a"}, {"question": "x" * 400, "answer": "1"}]
    file = write(tmp_path / "rows.jsonl", rows)
    out = made(
        file, byte_model, tmp_path / "out", "data.drop_unusable=true", "longest=300", "data.eval_fraction=0"
    )
    told = capsys.readouterr().out
    assert "20 questions; 2 left out (1 without an answer key, 1 too long" in told
    assert "1 repeat a question" in told
    assert len(load_shards(ShardsOptions(path=str(out)), byte_model).train) == 20


def test_evaluation_questions_of_a_file_of_their_own(
    tmp_path: Path, byte_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "train.jsonl", ROWS[:50])
    apart, shared = (
        write(tmp_path / "apart.jsonl", ROWS[50:60]),
        write(tmp_path / "shared.jsonl", ROWS[49:60]),
    )
    out = made(file, byte_model, tmp_path / "out", f"data.eval_path={apart}")
    task = load_shards(ShardsOptions(path=str(out)), byte_model)
    assert (len(task.train), len(task.evaluation)) == (50, 10)
    assert shard(file, byte_model, tmp_path / "again", f"data.eval_path={shared}") != 0
    assert "shared.jsonl line 1 is; remove it" in capsys.readouterr().err


def test_a_question_held_out_of_one_set_is_in_no_other(tmp_path: Path, byte_model: Path) -> None:
    made(write(tmp_path / "a.jsonl", ROWS[:40]), byte_model, tmp_path / "two" / "a", "data.eval_fraction=0.3")
    out = load_shards(ShardsOptions(path=str(tmp_path / "two" / "a")), byte_model).evaluation[0].text
    [held] = [row for row in ROWS if row["question"] in out]
    rows = write(tmp_path / "b.jsonl", [held, *ROWS[50:60]])
    made(rows, byte_model, tmp_path / "two" / "b", "data.eval_fraction=0")
    with pytest.raises(DataError, match=r"1 questions are in .*b and in .*held_out"):
        load_shards(ShardsOptions(path=str(tmp_path / "two")), byte_model)


def test_a_held_out_share_without_a_usable_row_is_not_made(tmp_path: Path, byte_model: Path) -> None:
    """All that would be held out is longer than a prompt may be."""
    long = [{"question": f"{n} " + "x" * 400, "answer": "1"} for n in range(60)]
    every = write(tmp_path / "every.jsonl", [*ROWS, *long])
    task = load_jsonl(JsonlOptions(path=str(every), eval_fraction=0.1), byte_model, max_prompt_tokens=1000)
    held = [prompt.text for prompt in task.evaluation]
    chosen = [row for row in ROWS if not any(row["question"] in text for text in held)]
    too_long = [row for row in long if any(row["question"] in text for text in held)]
    assert chosen
    assert too_long
    rows = write(tmp_path / "rows.jsonl", [*chosen, *too_long])
    words = ("data.eval_fraction=0.1", "data.drop_unusable=true", "longest=300")
    out = made(rows, byte_model, tmp_path / "out", *words)
    assert not (out / "held_out").exists()
    assert len(load_shards(ShardsOptions(path=str(out)), byte_model).train) == len(chosen)
