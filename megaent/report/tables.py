"""The tables of a run: what their columns are, and the parts they are kept in.

A table is a folder ``tables/NAME`` of Parquet files, each the rows of whole steps, named by the first and
the last of them. A part appears when it is whole and never changes, so a folder can be read while the run
writes. docs/tables.md explains every column.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from megaent.durable import replace_bytes
from megaent.errors import DataError, MissingDependency

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = "tables"
VERSION = 1
"""Of the schema: renaming, dropping or redefining a column makes a new one, adding a column does not."""

TABLES: dict[str, dict[str, str]] = {
    "steps": {"step": "int64", "metric": "string", "value": "float64"},
    "entropy": {"step": "int64", "low": "float64", "high": "float64", "tokens": "int64"},
    "groups": {
        "step": "int64",
        "place": "int64",
        "prompt_id": "string",
        "split": "string",
        "responses": "int64",
        "correct": "int64",
        "truncated": "int64",
        "reward": "float64",
        "length": "float64",
        "entropy": "float64",
        "entropy_correct": "float64",
        "entropy_incorrect": "float64",
        "advantage_abs": "float64",
    },
    "responses": {
        "step": "int64",
        "prompt_id": "string",
        "response": "int64",
        "prompt": "string",
        "answer": "string",
        "split": "string",
        "reward": "float64",
        "correct": "bool",
        "truncated": "bool",
        "length": "int64",
    },
    "tokens": {
        "step": "int64",
        "prompt_id": "string",
        "response": "int64",
        "position": "int64",
        "token": "int64",
        "text": "string",
        "correct": "bool",
        "mask": "bool",
        "entropy": "float32",
        "log_prob": "float32",
        "log_prob_engine": "float32",
        "advantage": "float32",
        "weight": "float32",
        "penalty": "float32",
        "covariance": "float32",
        "segment": "string",
    },
}
"""Table -> column -> type, by Arrow's names."""

Columns = Mapping[str, Sequence[object]]

_PART = re.compile(r"(\d{8,})-(\d{8,})\.parquet")
_KEY = b"megaent.tables"


class Part(NamedTuple):
    first: int  # step
    last: int
    path: Path


class Found(NamedTuple):
    """What of a table can be read, and sentences about the rest."""

    rows: pa.Table
    notes: list[str]


def schema(name: str) -> pa.Schema:
    pa = _arrow()
    fields = [(column, pa.type_for_alias(kind)) for column, kind in TABLES[name].items()]
    return pa.schema(fields, metadata={_KEY: str(VERSION).encode()})


def rows(name: str, columns: Columns) -> pa.Table:
    """Raises an error of Arrow's for columns that the table does not have, or lacks."""
    return _arrow().table(dict(columns), schema=schema(name))


def parts(folder: Path) -> list[Part]:
    """Of one table's folder, by their steps; [] where it is not there."""
    found = [(path, _PART.fullmatch(path.name)) for path in folder.glob("*.parquet")]
    return sorted(Part(int(match[1]), int(match[2]), path) for path, match in found if match)


def write_part(folder: Path, table: pa.Table) -> Path:
    """Atomically; ``table`` holds whole steps, in order. Raises OSError."""
    import pyarrow.parquet as pq

    first, last = table["step"][0].as_py(), table["step"][-1].as_py()
    path = folder / f"{first:08d}-{last:08d}.parquet"
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    replace_bytes(path, file.getbuffer())
    return path


def read_table(run: Path, name: str) -> Found:
    """All rows of ``run``'s table; a part that is damaged or of another version becomes a note."""
    pa = _arrow()
    whole, notes = [schema(name).empty_table()], []
    for part in parts(run / FOLDER / name):
        try:
            whole.append(read_part(name, part.path))
        except FileNotFoundError:
            continue  # thinned away while we looked
        except DataError as error:
            notes.append(f"{error}; it is left out.")
    return Found(pa.concat_tables(whole), notes)


def read_part(name: str, path: Path) -> pa.Table:
    """The columns that are known here. Raises DataError for what is no part of this version."""
    pa = _arrow()
    import pyarrow.parquet as pq

    shown = f"{FOLDER}/{name}/{path.name}"
    try:
        table = pq.ParquetFile(io.BytesIO(path.read_bytes())).read()
        version = (table.schema.metadata or {}).get(_KEY, b"?").decode(errors="replace")
        if version == str(VERSION):
            return _as_known(name, table)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{shown} cannot be read: {' '.join(str(error).split())[:120]}") from error
    raise DataError(f"{shown} is of version {version[:20]} of the tables, this program reads {VERSION}")


def _as_known(name: str, table: pa.Table) -> pa.Table:
    """Without columns that are not known here, and with nulls in those that came later."""
    nulls = _arrow().nulls(table.num_rows)
    known = {column: table[column] if column in table.column_names else nulls for column in TABLES[name]}
    return _arrow().table(known).cast(schema(name))


def cut_tables(run: Path, step: int) -> list[str]:
    """Leave the rows of steps up to ``step``; a sentence for each part that is lost, kept aside as it was."""
    lost = []
    for name in TABLES:
        folder = run / FOLDER / name
        for part in parts(folder):
            if part.first > step:
                part.path.unlink()
            elif part.last > step:
                lost += _cut(name, part, step)
        for aside in folder.glob(".*.new"):
            aside.unlink()
    return lost


def _cut(name: str, part: Part, step: int) -> list[str]:
    from pyarrow.compute import field

    try:
        table = read_part(name, part.path)
    except DataError as error:
        kept = part.path.rename(part.path.with_name(part.path.name + ".damaged"))
        return [f"{error}; what it held of steps up to {step} is kept in {kept.name} alone"]
    kept_rows = table.filter(field("step") <= step)
    if kept_rows.num_rows:
        write_part(part.path.parent, kept_rows)
    part.path.unlink()
    return []


def thin(folder: Path, most_bytes: float) -> None:
    """Drop every second part, but for the first and the last, until the folder is no larger."""
    while len(found := parts(folder)) > 2 and sum(part.path.stat().st_size for part in found) > most_bytes:
        for part in found[1:-1:2]:
            part.path.unlink()


def _arrow():
    try:
        import pyarrow
    except ImportError as error:
        raise MissingDependency(
            "pyarrow is not installed; run `pip install 'megaent[train]'` or set run.tables_mb=0"
        ) from error
    return pyarrow
