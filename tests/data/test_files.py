"""Data files as they lie about: formats, packing and shards, all the same rows."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from megaent.data.files import data_files, read_objects
from megaent.errors import DataError

ROWS = [{"question": f"q{n}, \u2028 \x85 \u00e9\u4e16", "answer": str(n)} for n in range(5)]


def lines(rows: list) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(rows: list) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def parquet(rows: list) -> bytes:
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    return out.getvalue()


def arrow_stream(rows: list) -> bytes:
    out, made = io.BytesIO(), pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_stream(out, made.schema) as writer:
        writer.write_table(made)
    return out.getvalue()


FORMATS: dict[str, Callable[[list], bytes]] = {
    "lines": lines,
    "lines without an end": lambda rows: lines(rows)[:-1],
    "lines of windows": lambda rows: b"\xef\xbb\xbf" + lines(rows).replace(b"\n", b"\r\n"),
    "blank lines": lambda rows: b"\n" + lines(rows).replace(b"\n", b"\n\n"),
    "array": lambda rows: json.dumps(rows).encode(),
    "array over lines": lambda rows: json.dumps(rows, indent=1).encode(),
    "an object around": lambda rows: json.dumps({"version": 1, "data": rows}).encode(),
    "an object over lines": lambda rows: json.dumps({"data": rows}, indent=1).encode(),
    "an object around, beside an empty list": lambda rows: json.dumps({"notes": [], "data": rows}).encode(),
    "csv": table,
    "parquet": parquet,
    "arrow": arrow_stream,
}
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "zstd": lambda data: pyarrow.Codec("zstd").compress(data, asbytes=True),
}


ONE_ROW = [
    {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "5"}]},
    {"question": "Q", "choices": [{"label": "A", "text": "x"}, {"label": "B", "text": "y"}]},
    {"messages": [{"role": "user", "content": "Q"}], "label": "5"},
]


def rows_of(path: Path) -> list:
    return [row for _, row in read_objects(path)]


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows_whatever_its_name(tmp_path: Path, name: str, packing: str) -> None:
    for suffix in (".jsonl", ".json", ""):
        path = tmp_path / f"data{suffix}"
        path.write_bytes(PACKED[packing](FORMATS[name](ROWS)))
        assert rows_of(path) == ROWS


def test_a_row_of_turns_alone_is_one_row(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "q"}, {"from": "assistant", "value": "a"}]
    path = tmp_path / "turns.jsonl"
    path.write_bytes(lines([turns, turns]))
    assert rows_of(path) == [turns, turns]


def test_floats_keep_the_text_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text('[{"a": 1e-7}, {"a": 0.10}]')
    assert rows_of(path) == [{"a": "1e-7"}, {"a": "0.10"}]


def test_shards_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        (tmp_path / f"part-{number}.jsonl").write_bytes(lines([{"n": number}]))
    (tmp_path / "README.md").write_text("about")
    for path in (str(tmp_path), f"{tmp_path}/part-*.jsonl"):
        assert [row["n"] for file in data_files(path) for row in rows_of(file)] == [0, 1, 2]


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    split = tmp_path / "train"
    split.mkdir()
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (split / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    (split / "dataset_info.json").write_text("{}")
    (split / "data-00000-of-00001.arrow").write_bytes(arrow_stream(ROWS))
    assert [row for file in data_files(str(split)) for row in rows_of(file)] == ROWS
    with pytest.raises(DataError, match=r"holds several splits \(train\); name one"):
        data_files(str(tmp_path))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1}\n{"a": \n', "line 2: each line must be one JSON object"),
        (b"[" * 100_000, "line 1: each line must be one JSON object"),
        (b"one line of prose\n", "line 1: expected JSON Lines, a JSON array, CSV or Parquet"),
        (b"a,b\n1,2\n1,2,3\n", "line 3: expected 2 fields as in the header"),
        (b"a,b\n1\n", "line 2: expected 2 fields as in the header"),
        (b'{"a": "\xe9"}\n', "must be UTF-8 text"),
        (gzip.compress(b'{"a": 1}\n' * 999)[:-20], "cannot be read"),
        (b"PAR1 and no more", "cannot be read"),
    ],
    ids=["cut line", "nesting", "prose", "csv too long", "csv too short", "latin", "cut gzip", "cut parquet"],
)
def test_what_is_no_data_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as raised:
        rows_of(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("path", ["nowhere.jsonl", "no/*.jsonl", "."])
def test_a_path_without_data_says_what_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"set data\.path to a \.jsonl, \.json, \.csv or \.parquet file"):
        data_files(path)


@pytest.mark.parametrize("row", ONE_ROW, ids=lambda row: next(iter(row)))
def test_a_file_of_one_row_with_a_list_inside_is_that_row(tmp_path: Path, row: dict) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(row))
    assert rows_of(path) == [row]


def test_rows_inside_an_object_may_say_where_they_are_from(tmp_path: Path) -> None:
    rows = [
        {"from": "AIME 2023", "question": "q", "answer": "1"},
        {"role": "easy", "question": "p", "answer": "2"},
    ]
    path = tmp_path / "data.json"
    path.write_text(json.dumps({"data": rows}))
    assert rows_of(path) == rows
