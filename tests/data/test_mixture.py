"""``data.weights`` of files: shares of sets, turns of questions, and none twice in a step."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest

from megaent.cli import main
from megaent.data.curriculum import CurriculumOptions
from megaent.data.jsonl import JsonlOptions
from megaent.data.mixture import MixedPrompts
from megaent.data.registry import load_task
from megaent.data.task import Task
from megaent.errors import ConfigError, DataError

SIZES = {"eggs": 40, "sums": 90, "tools": 50}


def lines(name: str, numbers: range) -> str:
    return "".join(json.dumps({"question": f"{name} {i}?", "answer": i}) + "\n" for i in numbers)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain file, a packed one, and a set of two files in a folder; and what is no set."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "sums.jsonl").write_text(lines("sums", range(90)))
    (folder / "eggs.jsonl.gz").write_bytes(gzip.compress(lines("eggs", range(40)).encode()))
    (folder / "tools").mkdir()
    (folder / "tools" / "a.jsonl").write_text(lines("tools", range(20)))
    (folder / "tools" / "b.jsonl").write_text(lines("tools", range(20, 50)))
    (folder / "README.md").write_text("Three sets.")
    (folder / ".cache").mkdir()
    return folder


def load(folder: Path, model: Path, weights: str, **options: object) -> Task:
    config = replace(JsonlOptions(path=str(folder)), weights=weights, **{"eval_fraction": 0.0, **options})
    return load_task(config, model, max_prompt_tokens=1000)


def asked(task: Task, steps: int, per_step: int = 8, **leader: int) -> list[list[str]]:
    stream = task.stream(per_step=per_step, seed=1)
    return [[p.id for _, p in stream.take(step * per_step, **leader)] for step in range(steps)]


def set_of(task: Task) -> dict[str, str]:
    return {prompt.id: dict(prompt.labels)["set"] for prompt in task.train}


@pytest.mark.parametrize("weights", ["2*eggs+sums+tools", "eggs+2.5*sums+0.5*tools"])
def test_each_set_has_its_share_and_each_question_its_turn(
    folder: Path, byte_model: Path, weights: str
) -> None:
    task = load(folder, byte_model, weights)
    sets, steps = set_of(task), asked(task, 100)
    assert Counter(sets.values()) == SIZES
    assert all(len(set(step)) == 8 for step in steps)
    counts = Counter(chain(*steps))
    for text in weights.split("+"):
        weight, _, name = text.rpartition("*")
        of_set = [counts[prompt] for prompt in sets if sets[prompt] == name]
        assert abs(sum(of_set) - 800 * float(weight or 1) / 4) <= 1
        assert max(of_set) - min(of_set) <= 1


def test_the_order_is_of_the_seed_and_mixes_whole_sets(folder: Path, byte_model: Path) -> None:
    task = load(folder, byte_model, "eggs+sums+tools")
    flow = list(chain(*asked(task, 60)))
    assert list(chain(*asked(load(folder, byte_model, "eggs+sums+tools"), 60))) == flow
    of_sums = [int(p.text.split()[1].rstrip("?")) for p in task.train if set_of(task)[p.id] == "sums"]
    assert sorted(of_sums) == list(range(90))
    stream = task.stream(per_step=8, seed=2)
    assert [p.id for _, p in stream.take(0)] != flow[:8]


def test_a_step_is_shared_by_leaders_and_asked_in_any_order(folder: Path, byte_model: Path) -> None:
    task = load(folder, byte_model, "3*eggs+sums+tools")
    whole = asked(task, 40)
    parts = [task.stream(per_step=8, seed=1) for _ in range(3)]
    for number in (0, 39, 7, 7, 8, 0):
        taken = chain(*(part.take(8 * number, leader=r, leaders=3) for r, part in enumerate(parts)))
        assert [p.id for _, p in sorted(taken, key=lambda pair: pair[0])] == whole[number]
    resized = task.stream(per_step=5, seed=1).part(None, sizes=((0, 8), (24, 5)))
    going_on = [p.id for step in range(20) for _, p in resized.take(24 + 5 * step)]
    assert going_on == list(chain(*whole))[24:124]


def test_a_part_asks_some_of_the_questions(folder: Path, byte_model: Path) -> None:
    task = load(folder, byte_model, "eggs+sums+tools")
    chosen = [prompt.id for prompt in task.train][::2]
    part = task.stream(per_step=2, seed=1).part(chosen, sizes=((0, 2),))
    assert {p.id for step in range(80) for _, p in part.take(2 * step)} == set(chosen)


def test_identity_knows_weights_and_keys(folder: Path, byte_model: Path) -> None:
    def digest(weights: str, **options: object) -> str:
        train = load(folder, byte_model, weights, **options).train
        assert isinstance(train, MixedPrompts)
        return train.digest

    first = digest("eggs+sums+tools")
    assert first == digest("2*eggs+2*sums+2*tools") == digest("eggs+sums+tools", seed=3)
    assert len({first, digest("2*eggs+sums+tools"), digest("eggs+sums+tools", train_prompts=150)}) == 3


def test_shares_are_told(folder: Path, byte_model: Path) -> None:
    told = load(folder, byte_model, "2*eggs+sums+tools").notes
    assert "eggs: 40 training prompts, 50.0% of what is asked" in told


def test_held_out_questions_are_of_all_sets(folder: Path, byte_model: Path) -> None:
    task = load(folder, byte_model, "eggs+sums+tools", eval_fraction=0.3)
    held_out = {dict(prompt.labels)["set"] for prompt in task.evaluation}
    assert held_out == set(SIZES)
    assert not {p.id for p in task.evaluation} & {p.id for p in task.train}


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ("eggs+sums", "must name eggs, sums, tools and nothing else; tools is in only one of both"),
        ("eggs+sums+tools+odd", "odd is in only one of both"),
        ("9*eggs+sums+tools", "eggs has 40 training prompts.*needs 48"),
    ],
)
def test_sets_that_cannot_be_mixed_so_are_refused(
    folder: Path, byte_model: Path, weights: str, told: str
) -> None:
    with pytest.raises(DataError, match=told):
        load(folder, byte_model, weights).stream(per_step=16, seed=0)


def test_what_is_no_folder_of_sets_is_refused(tmp_path: Path, folder: Path, byte_model: Path) -> None:
    def refuses(told: str, path: Path) -> None:
        with pytest.raises(DataError, match=told):
            replace(JsonlOptions(path=str(path)), weights="a+b").require_files()

    refuses("which must be a folder", folder / "sums.jsonl")
    (tmp_path / "a.jsonl").write_text(lines("a", range(3)))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.jsonl").write_text(lines("b", range(3)))
    refuses("would both be the set 'a'", tmp_path)


def test_a_question_of_two_sets_must_have_one_key(tmp_path: Path, byte_model: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines("a", range(9)))
    (tmp_path / "b.jsonl").write_text(json.dumps({"question": "a 3?", "answer": 4}) + "\n")
    with pytest.raises(DataError, match="ask the same and have the keys '3' and '4'"):
        load(tmp_path, byte_model, "a+b")


def test_weights_without_effect_are_refused(
    folder: Path, byte_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="leave one out"):
        JsonlOptions(path="x", weights="a+b", curriculum=CurriculumOptions(by="accuracy"))
    out = tmp_path / "shards"
    words = [f"model={byte_model}", f"out={out}", "data.weights=eggs+sums+tools"]
    assert main(["shard", "--prompts", str(folder), *words]) == 2
    assert "give data.weights to megaent train" in capsys.readouterr().err
    assert not out.exists()
