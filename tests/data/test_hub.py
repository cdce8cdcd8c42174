"""Data sets by their name: what ``datasets`` itself loads, in the layout that the hub uses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megaent.data import hub
from megaent.data.files import read_source, require_source
from megaent.data.rows import LeftOut, read_rows
from megaent.errors import DataError

CARD = """---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train.jsonl}
  - {split: test, path: main/test.jsonl}
- config_name: socratic
  data_files:
  - {split: train, path: socratic/train.jsonl}
---
"""


def rows(name: str) -> list[dict[str, str]]:
    return [{"question": f"{name} {n}?", "answer": f"so\n#### {n}"} for n in range(3)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set with two configurations, as its repository lies on the hub."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    found = tmp_path / "set"
    for name in ("main/train", "main/test", "socratic/train"):
        file = found / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows(name)))
    (found / "README.md").write_text(CARD)
    return found


@pytest.mark.parametrize(("config", "split"), [("main", "train"), ("main", "test"), ("socratic", "train")])
def test_every_split_gives_its_own_rows_in_order(folder: Path, config: str, split: str) -> None:
    path = f"hub:{folder}:{config}:{split}"
    require_source(path)
    assert list(read_source(path)) == [
        (f"{path} row {number}", row) for number, row in enumerate(rows(f"{config}/{split}"), start=1)
    ]


def test_its_rows_are_read_by_their_form(folder: Path) -> None:
    found = read_rows(f"hub:{folder}:main:test", LeftOut(may_drop=False))
    assert [(row.form, row.question, row.answer) for row in found] == [
        ("question, answer", f"main/test {n}?", str(n)) for n in range(3)
    ]


def test_a_set_with_one_configuration_needs_no_name_of_it(folder: Path) -> None:
    (folder / "README.md").unlink()
    found = [row for _, row in read_source(f"hub:{folder / 'main'}:test")]
    assert found == rows("main/test")


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (":train", "'main', 'socratic'"),
        (":other:train", "'main', 'socratic'"),
        (":main:validation", r"\['train', 'test'\]"),
    ],
)
def test_what_is_not_in_the_set_is_refused_with_what_is(folder: Path, end: str, told: str) -> None:
    with pytest.raises(DataError, match=f"cannot be loaded: .*{told}"):
        list(read_source(f"hub:{folder}{end}"))


def test_a_damaged_file_of_a_set_is_refused(folder: Path) -> None:
    (folder / "main/train.jsonl").write_text('{"question": "q"\n')
    with pytest.raises(DataError, match="cannot be loaded"):
        list(read_source(f"hub:{folder}:main:train"))


@pytest.mark.parametrize("path", ["hub:", "hub:openai/gsm8k", "hub::train", "hub:a:b:c:d", "hub:a:"])
def test_a_name_of_another_form_is_refused_before_anything_is_loaded(path: str) -> None:
    with pytest.raises(DataError, match="hub:NAME:CONFIG:SPLIT"):
        require_source(path)


def test_a_name_is_read_and_written_alike() -> None:
    for path in ("hub:openai/gsm8k:main:train", "hub:aime:test", "hub:org/set@v1.0:main:test"):
        assert str(hub.read_split(path)) == path
    assert hub.read_split("hub:org/set@v1.0:test") == hub.HubSplit(
        name="org/set", revision="v1.0", split="test"
    )


def test_a_folder_is_named_from_the_root_and_a_set_is_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    assert hub.absolute("hub:./set:main:train") == f"hub:{folder}:main:train"
    assert hub.absolute("hub:openai/gsm8k:main:train") == "hub:openai/gsm8k:main:train"
