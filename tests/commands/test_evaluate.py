"""``megaent evaluate`` on a tiny model: what is kept, what a kill costs, what is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="transformers is missing: `pip install transformers`")
pytest.importorskip("hydra", reason="hydra-core is missing: `pip install hydra-core`")

from support.byte_tokenizer import ROWS, save_tokenizer
from support.tiny_hf import save_tiny

from megaent.cli import main

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        importlib.util.find_spec("megatron") is None, reason="megatron-core is missing: ./scripts/setup"
    ),
]

ROWS_OF_THE_FILE = [
    {"question": f"{a} + {b} = ?", "answer": str(a + b), "level": "easy" if a < 3 else "hard"}
    for a, b in [(1, 2), (2, 2), (3, 1), (4, 5), (5, 5), (1, 7), (3, 6)]
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a file of questions."""
    made = tmp_path_factory.mktemp("evaluate")
    save_tokenizer(made / "model")
    save_tiny(made / "model", family="qwen2", tie=True, vocab_size=ROWS, eos_token_id=257)
    (made / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS_OF_THE_FILE))
    return made


def words(folder: Path, out: Path, *more: str) -> list[str]:
    return [
        "evaluate",
        str(folder / "model"),
        f"data={folder / 'sums.jsonl'}",
        "data.template=plain",
        "data.instruction=",
        "rollout.batch_size=6",
        "max_new_tokens=8",
        "k=1,3",
        f"out={out}",
        *more,
    ]


@pytest.fixture(scope="module")
def done(folder: Path) -> Path:
    out = folder / "done"
    assert main(words(folder, out)) == 0
    return out


def test_every_row_is_asked_and_every_response_kept(done: Path) -> None:
    rows = [json.loads(line) for line in (done / "responses.jsonl").read_text().splitlines()]
    assert sorted(row["question"].strip() for row in rows) == sorted(r["question"] for r in ROWS_OF_THE_FILE)
    assert {len(row["responses"]) for row in rows} == {3}
    assert all(len(s["tokens"]) == len(s["log_prob"]) <= 8 for row in rows for s in row["samples"])
    summary = json.loads((done / "summary.json").read_text())
    told = summary["all"]
    assert told["responses"] == 21 == sum(told[n] for n in ("correct", "wrong", "unparsable", "unscored"))
    assert told["estimates"]["pass@3"]["known"] == 7
    assert {level: part["prompts"] for level, part in summary["by"]["level"].items()} == {
        "easy": 3,
        "hard": 4,
    }


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_a_kill_costs_a_batch_and_no_bit(folder: Path, done: Path, tmp_path: Path, share: float) -> None:
    whole = (done / "responses.jsonl").read_bytes()
    out = tmp_path / "again"
    out.mkdir()
    (out / "evaluation.json").write_bytes((done / "evaluation.json").read_bytes())
    (out / "responses.jsonl").write_bytes(whole[: int(share * len(whole))])
    assert main(words(folder, out)) == 0
    assert (out / "responses.jsonl").read_bytes() == whole
    assert (out / "grades.jsonl").read_bytes() == (done / "grades.jsonl").read_bytes()


def test_grading_again_needs_no_model(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (done / "responses.jsonl").read_bytes()
    assert main(["evaluate", "--regrade", str(done), "k=2", f"base={done}"]) == 0
    shown = capsys.readouterr().out
    assert "pass@2" in shown
    assert "accuracy +0.000" in shown
    assert max(map(len, shown.splitlines()[:30])) <= 80
    assert (done / "responses.jsonl").read_bytes() == before


def test_the_file_is_what_audit_reads(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(done / "responses.jsonl")]) == 0
    assert "21 rows, 0 without a key" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["temperature=0.5"], "its temperature is 1.0, here it is 0.5"),
        (["samples=2"], "raise samples"),
        (["k=many"], "k must be numbers such as 1,4,8, got 'many'"),
        (["max_new_tokens=255"], "prompt"),
        (["data=/nowhere/sums.jsonl"], "/nowhere/sums.jsonl cannot be read"),
        (["grader=math"], "belongs to --regrade"),
        (["temperature=inf"], "temperature must be finite, got inf"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_lost(
    folder: Path, done: Path, capsys: pytest.CaptureFixture[str], more: list[str], said: str
) -> None:
    before = {file.name: file.read_bytes() for file in done.iterdir()}
    assert main(words(folder, done, *more)) != 0
    assert said in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in done.iterdir()} == before


def test_more_than_was_drawn_is_refused(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--regrade", str(done), "k=4"]) == 2
    assert "k=4 needs as many responses a prompt, and 3 were drawn" in capsys.readouterr().err


def other_sums(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        "".join(json.dumps(row | {"question": row["question"] + "?"}) + "\n" for row in ROWS_OF_THE_FILE)
    )
    return path


def test_several_sets_each_have_a_folder(folder: Path, tmp_path: Path) -> None:
    both = words(folder, tmp_path / "out")
    both[2] += f",{other_sums(tmp_path, 'others.jsonl')}"
    assert main(both) == 0
    assert sorted(path.parent.name for path in (tmp_path / "out").glob("*/summary.json")) == [
        "others",
        "sums",
    ]


def test_two_sets_of_one_name_are_refused_before_an_answer(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = f"data={other_sums(tmp_path, 'other/sums.jsonl')}"
    assert main(words(folder, tmp_path / "out", more)) == 2
    assert "2 sets of one name would share" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_base_that_cannot_be_compared_is_refused_before_an_answer(
    folder: Path, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(words(folder, out, f"base={tmp_path / 'nowhere'}")) == 3
    assert "holds no evaluation" in capsys.readouterr().err
    other = words(folder, out, f"base={done}")
    other[2] = f"data={other_sums(tmp_path, 'others.jsonl')}"
    assert main(other) == 3
    assert "answered none of these prompts" in capsys.readouterr().err
    assert not out.exists()


def test_another_grader_is_recorded_and_not_compared_with_the_first(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All solved, and paid more than 1 for the box."""
    again = tmp_path / "again"
    shutil.copytree(done, again)
    rows = [json.loads(line) for line in (done / "responses.jsonl").read_text().splitlines()]
    solved = [row | {"responses": [rf"\boxed{{{row['answer']}}}"] * 3} for row in rows]
    (again / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in solved))
    assert main(["evaluate", "--regrade", str(again), "k=3", "grader=math+0.1*boxed"]) == 0
    summary = json.loads((again / "summary.json").read_text())
    assert summary["settings"]["grader"] == "math+0.1*boxed"
    assert summary["all"]["estimates"]["worst@3"]["value"] == pytest.approx(1.1)
    capsys.readouterr()
    assert main(["evaluate", "--regrade", str(done), "k=3", f"base={again}"]) == 3
    assert "graded by math+0.1*boxed, and what it is compared with by math" in capsys.readouterr().err


def test_a_model_alone_has_no_questions(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(folder / "model")]) == 2
    assert "add data=" in capsys.readouterr().err
