"""Tables on the disk: parts are whole, cuts leave the right steps, damage is told, size is bounded."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megaent.report.tables import TABLES, cut_tables, parts, read_table, rows, schema, thin, write_part


def steps(*numbers: int) -> pa.Table:
    columns = {"step": list(numbers), "metric": ["loss"] * len(numbers), "value": [n / 3 for n in numbers]}
    return rows("steps", columns)


def write(run: Path, *ranges: range) -> Path:
    folder = run / "tables" / "steps"
    for numbers in ranges:
        write_part(folder, steps(*numbers))
    return folder


def read_steps(run: Path) -> list[int]:
    return read_table(run, "steps").rows["step"].to_pylist()


def test_what_was_written_is_read_back_to_the_bit(tmp_path: Path) -> None:
    folder = write(tmp_path, range(1, 4), range(4, 6))
    assert [path.name for path in sorted(folder.iterdir())] == [
        "00000001-00000003.parquet",
        "00000004-00000005.parquet",
    ]
    found = read_table(tmp_path, "steps")
    assert found.notes == []
    assert found.rows.to_pydict() == steps(1, 2, 3, 4, 5).to_pydict()
    assert found.rows.schema.equals(schema("steps"))


def test_a_table_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert {read_table(tmp_path, name).rows.num_rows for name in TABLES} == {0}


@pytest.mark.parametrize("last", range(8))
def test_cutting_leaves_the_steps_up_to_one_and_each_once(tmp_path: Path, last: int) -> None:
    folder = write(tmp_path, range(1, 4), range(4, 6), range(6, 8))
    (folder / ".00000008-00000009.parquet.1234.new").write_bytes(b"half")
    assert cut_tables(tmp_path, last) == []
    assert read_steps(tmp_path) == list(range(1, last + 1))
    assert cut_tables(tmp_path, last) == []
    assert read_steps(tmp_path) == list(range(1, last + 1))
    assert not list(folder.glob(".*"))
    write_part(folder, steps(last + 1, last + 2))
    assert read_steps(tmp_path) == list(range(1, last + 3))


def test_a_cut_that_was_killed_half_way_is_done_again(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4), range(1, 3))  # the shorter part was written, the longer not yet removed
    assert cut_tables(tmp_path, 2) == []
    assert read_steps(tmp_path) == [1, 2]


def test_damage_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path, range(1, 4), range(4, 6), range(6, 8))
    whole = (folder / "00000004-00000005.parquet").read_bytes()
    (folder / "00000004-00000005.parquet").write_bytes(whole[: len(whole) // 2])
    pq.write_table(
        steps(8).replace_schema_metadata({"megaent.tables": "99"}), folder / "00000008-00000008.parquet"
    )
    found = read_table(tmp_path, "steps")
    assert found.rows["step"].to_pylist() == [1, 2, 3, 6, 7]
    assert "00000004-00000005.parquet cannot be read" in found.notes[0]
    assert "is of version 99 of the tables, this program reads 1" in found.notes[1]
    (lost,) = cut_tables(tmp_path, 4)
    assert "kept in 00000004-00000005.parquet.damaged alone" in lost
    assert (folder / "00000004-00000005.parquet.damaged").read_bytes() == whole[: len(whole) // 2]
    assert read_steps(tmp_path) == [1, 2, 3]


def test_columns_of_later_and_earlier_programs_do_no_harm(tmp_path: Path) -> None:
    folder = tmp_path / "tables" / "steps"
    write_part(folder, steps(1).append_column("new", [[3]]))
    write_part(folder, steps(2).drop_columns(["metric"]))
    found = read_table(tmp_path, "steps")
    assert found.rows.column_names == list(TABLES["steps"])
    assert found.rows["metric"].to_pylist() == ["loss", None], "one that an earlier program did not write"


def test_wrong_columns_are_refused() -> None:
    with pytest.raises((ValueError, KeyError)):
        rows("steps", {"step": [1], "value": [0.5]})


def test_thinning_keeps_the_ends_and_the_limit(tmp_path: Path) -> None:
    folder = write(tmp_path, *(range(first, first + 2) for first in range(1, 41, 2)))
    size = (folder / "00000001-00000002.parquet").stat().st_size
    thin(folder, 21 * size)
    assert len(parts(folder)) == 20, "nothing is dropped before it must be"
    thin(folder, 6.5 * size)
    left = parts(folder)
    assert len(left) <= 6
    assert (left[0].first, left[-1].last) == (1, 40)
    gaps = [later.first - earlier.first for earlier, later in pairwise(left)]
    assert max(gaps[:-1]) <= 2 * min(gaps[:-1]), "evenly over the run"
    thin(folder, 1)
    assert len(parts(folder)) == 2


def test_a_reader_never_sees_a_part_half_written(tmp_path: Path) -> None:
    """Parts are read while another thread writes them: each read holds whole parts alone, none is damaged."""
    done = threading.Event()

    def writer() -> None:
        for first in range(1, 200, 10):
            write(tmp_path, range(first, first + 10))
        done.set()

    thread = threading.Thread(target=writer)
    thread.start()
    seen = 0
    while not done.is_set():
        found = read_table(tmp_path, "steps")
        assert found.notes == []
        assert found.rows["step"].to_pylist() == list(range(1, found.rows.num_rows + 1))
        assert found.rows.num_rows % 10 == 0
        seen += 1
    thread.join()
    assert seen > 0
    assert read_steps(tmp_path) == list(range(1, 201))
