"""Rows of a data set: one file, several shards, a folder that ``datasets`` saved, or a name of the hub.

JSON Lines, a JSON array (or an object around one), CSV, Parquet and Arrow, each plain, gzip or zstd. What a
file is, its content says; suffixes are for people. Rows are streamed but for JSON arrays.
"""

from __future__ import annotations

import csv
import errno
import glob
import gzip
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from megaent.data.forms import PROMPTS, QUESTIONS
from megaent.data.hub import hub_rows, is_hub, require_loader
from megaent.data.tables import arrow_rows, parquet_rows, zstd_stream
from megaent.errors import DataError

Placed = tuple[str, object]
"""A row, and where it stands: "FILE line 3"."""

_SUFFIXES = (".jsonl", ".json", ".ndjson", ".csv", ".parquet", ".arrow", ".gz", ".zst")
_OF_ROWS = frozenset((*QUESTIONS, *PROMPTS))
_LONGEST_FIELD = 2**24  # characters of a field in a CSV file


def require_source(path: str) -> None:
    """Raises DataError where nothing can be read from ``path``, before anything is."""
    if is_hub(path):
        require_loader(path)
    else:
        data_files(path)


def read_source(path: str) -> Iterator[Placed]:
    """Every row behind a path, a folder, a pattern or a name of the hub, in order. Raises DataError."""
    if is_hub(path):
        yield from hub_rows(path)
    else:
        for file in data_files(path):
            yield from read_objects(file)


def data_files(path: str) -> list[Path]:
    """The files behind a path, a folder or a pattern, in order of their names. Raises DataError."""
    if glob.has_magic(path) and not Path(path).exists():
        found = sorted(Path(name) for name in glob.glob(path, recursive=True) if Path(name).is_file())
        return found or _nothing(f"{path} matches no file")
    given = Path(path)
    if given.is_dir():
        return _in_folder(given)
    if not given.exists():
        _nothing(f"{path} cannot be read: {os.strerror(errno.ENOENT)}")
    return [given]


def sets_in(path: str) -> dict[str, str]:
    """By name the paths of files and folders in a folder. Raises DataError where there is none."""
    folder = Path(path)
    if is_hub(path) or not folder.is_dir():
        raise DataError(
            f"data.weights mixes the files and folders in data.path, which must be a folder, got {path}"
        )
    found: dict[str, str] = {}
    for child in sorted(folder.iterdir()):
        is_set = child.is_dir() or child.suffix in _SUFFIXES
        if child.name.startswith(".") or not is_set:
            continue
        name = child.name if child.is_dir() else child.name.split(".")[0]
        if name in found:
            raise DataError(
                f"{found[name]} and {child} would both be the set {name!r} of data.weights; rename one"
            )
        found[name] = str(child)
    return found


def _in_folder(folder: Path) -> list[Path]:
    splits = folder / "dataset_dict.json"
    if splits.is_file():
        names = ", ".join(sorted(child.name for child in folder.iterdir() if child.is_dir()))
        _nothing(f"{folder} holds several splits ({names}); name one, for example {folder}/train")
    found = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix in _SUFFIXES and file.name not in ("dataset_info.json", "state.json")
    ]
    return [file for file in found if not file.name.startswith(".")] or _nothing(f"{folder} holds no data")


def _nothing(problem: str) -> Any:
    kinds = "a .jsonl, .json, .csv or .parquet file (also .gz, .zst), a folder or a pattern of them"
    raise DataError(f"{problem}; set data.path to {kinds}, or to hub:NAME:SPLIT")


def read_objects(file: Path) -> Iterator[Placed]:
    """Every row of one file, in order. Raises DataError, naming the file and the line, for what is no row."""
    try:
        with _opened(file) as stream:
            head = stream.peek(8)[:8]  # type: ignore[attr-defined]
            if head[:4] == b"PAR1":
                yield from _numbered(file, parquet_rows(file, stream))
            elif head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
                yield from _numbered(file, arrow_rows(file, stream))
            else:
                yield from _text_rows(file, stream)
    except UnicodeDecodeError as error:
        raise DataError(f"{file} must be UTF-8 text: {error}; write it again as UTF-8") from error
    except (OSError, EOFError) as error:
        cause = getattr(error, "strerror", None) or error
        raise DataError(f"{file} cannot be read: {cause}; copy it again, or name another") from error


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked, with ``peek``."""
    with file.open("rb") as raw:
        magic = raw.peek(4)[:4]
        if magic[:2] == b"\x1f\x8b":
            with gzip.open(raw) as unpacked:
                yield io.BufferedReader(unpacked)  # type: ignore[arg-type]
        elif magic == b"\x28\xb5\x2f\xfd":
            with zstd_stream(raw) as unpacked:
                yield io.BufferedReader(unpacked)
        else:
            yield raw


def _numbered(file: Path, rows: Iterator[object]) -> Iterator[Placed]:
    for number, row in enumerate(rows, start=1):
        yield f"{file} row {number}", row


# ---------------------------------------------------------------- text


def _text_rows(file: Path, stream: BinaryIO) -> Iterator[Placed]:
    # utf-8-sig: some editors begin a file with a byte order mark. newline="": U+2028 and its like, and
    # carriage returns inside CSV fields, are text.
    with io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
        yield from _rows_of_text(file, text)


def _rows_of_text(file: Path, text: io.TextIOWrapper) -> Iterator[Placed]:
    number, first = _first_line(text)
    if not first:
        return
    if first.lstrip()[:1] not in ("{", "["):
        yield from _csv_rows(file, text, number, first)
        return
    value = _parsed_or_none(first)
    if value is not None:
        yield from _lines_or_array(file, text, number, first, value)
        return
    rest = first + text.read()
    value = _parsed_or_none(rest)
    yield from _lines(file, io.StringIO(rest), number) if value is None else _array(file, value)


def _first_line(text: io.TextIOWrapper) -> tuple[int, str]:
    """The first line that is not blank, and its number; "" at the end of the file."""
    for number, line in enumerate(text, start=1):
        if line.strip():
            return number, line
    return 0, ""


def _lines_or_array(
    file: Path, text: io.TextIOWrapper, number: int, first: str, value: object
) -> Iterator[Placed]:
    """``value``, all of the first line, is the first row of many, or what holds them all."""
    blank, second = _first_line(text)
    is_only = not second and (_is_list_of_rows(value) or _rows_inside(value) is not None)
    if is_only:
        yield from _array(file, value)
        return
    yield from _lines(file, io.StringIO(first), number)
    yield from _lines(file, io.StringIO(second), number + blank)
    yield from _lines(file, text, number + blank + 1)


def _lines(file: Path, lines: io.TextIOBase, first: int) -> Iterator[Placed]:
    for number, line in enumerate(_split_at_newlines(lines), start=first):
        if line.strip():
            place = f"{file} line {number}"
            try:
                yield place, _parsed(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{place}: each line must be one JSON object; {error}") from error


def _split_at_newlines(lines: io.TextIOBase) -> Iterator[str]:
    """By ``\\n`` alone: a bare carriage return ends no row of JSON Lines."""
    pending = ""
    for part in lines:
        pending += part
        if pending.endswith("\n"):
            yield pending
            pending = ""
    if pending:
        yield pending


def _array(file: Path, value: object) -> Iterator[Placed]:
    """The rows of a list, of an object around one, or an object that is a row itself."""
    inside = value if isinstance(value, list) else _rows_inside(value)
    yield from _numbered(file, iter([value] if inside is None else inside))


def _is_list_of_rows(value: object) -> bool:
    """And not one row that is a list of turns."""
    return isinstance(value, list) and all(isinstance(entry, dict) and not _is_turn(entry) for entry in value)


def _is_turn(entry: dict) -> bool:
    return {"from", "value"} <= entry.keys() or {"role", "content"} <= entry.keys()


def _rows_inside(value: object) -> list | None:
    """Of ``{"data": [{…}, …]}``: its one list of objects, where nothing in it looks like a question."""
    if not isinstance(value, dict) or any(str(name).lower() in _OF_ROWS for name in value):
        return None
    lists = [entry for entry in value.values() if isinstance(entry, list) and entry]
    others = [entry for entry in value.values() if not isinstance(entry, list)]
    is_rows = len(lists) == 1 and _is_list_of_rows(lists[0])
    is_row = any(isinstance(entry, str) and len(entry) > 200 for entry in others)
    return lists[0] if is_rows and not is_row else None


def _parsed_or_none(text: str) -> object:
    """The list or object that ``text`` is, None for what is no JSON."""
    try:
        return _parsed(text)
    except (ValueError, RecursionError):
        return None


def _parsed(text: str) -> object:
    """Floats keep the text of the file: 1e-7 stays 1e-7."""
    return json.loads(text, parse_float=str)


def _csv_rows(file: Path, text: io.TextIOWrapper, number: int, first: str) -> Iterator[Placed]:
    csv.field_size_limit(_LONGEST_FIELD)
    delimiter = max(",;\t", key=first.count)
    if delimiter not in first:
        raise DataError(
            f"{file} line {number}: expected JSON Lines, a JSON array, CSV or Parquet, got {first[:60]!r}"
        )
    reader = csv.DictReader(chain([first], text), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            place = f"{file} line {number - 1 + reader.line_num}"
            if None in row or None in row.values():
                raise DataError(f"{place}: expected {len(reader.fieldnames or ())} fields as in the header")
            yield place, dict(row)
    except csv.Error as error:
        raise DataError(f"{file} line {number - 1 + reader.line_num}: {error}") from error
