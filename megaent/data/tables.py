"""Parquet, Arrow and zstd through pyarrow, which is imported when such a file is met."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from megaent.errors import DataError, MissingDependency

_AT_ONCE = 1024  # rows decoded together


def parquet_rows(file: Path, stream: BinaryIO) -> Iterator[object]:
    """Every row as a dict of Python values. Raises DataError for a damaged file."""
    pyarrow = _pyarrow("Parquet")
    import pyarrow.parquet as parquet

    with _explained(file, pyarrow):
        whole = stream if stream.seekable() else pyarrow.BufferReader(stream.read())
        for batch in parquet.ParquetFile(whole).iter_batches(batch_size=_AT_ONCE):
            yield from batch.to_pylist()


def arrow_rows(file: Path, stream: BinaryIO) -> Iterator[object]:
    """Rows of a file that ``datasets`` saved (a stream of record batches), or of an Arrow file."""
    pyarrow = _pyarrow("Arrow")
    with _explained(file, pyarrow):
        head = stream.peek(6)[:6]  # type: ignore[attr-defined]
        if head == b"ARROW1":
            reader = pyarrow.ipc.open_file(pyarrow.BufferReader(stream.read()))
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            batches = iter(pyarrow.ipc.open_stream(stream))
        for batch in batches:
            yield from batch.to_pylist()


def zstd_stream(raw: BinaryIO) -> AbstractContextManager[Any]:
    return _pyarrow("zstd").CompressedInputStream(raw, "zstd")


def _pyarrow(what: str) -> ModuleType:
    try:
        import pyarrow
        import pyarrow.ipc
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"{what} files are read through pyarrow; run `pip install 'megaent[train]'`"
        ) from error
    return pyarrow


@contextmanager
def _explained(file: Path, pyarrow: ModuleType) -> Iterator[None]:
    """Turn what pyarrow raises into a DataError that names the file."""
    try:
        yield
    except pyarrow.ArrowException as error:
        cause = " ".join(str(error).split())[:200]
        raise DataError(f"{file} cannot be read: {cause}; copy it again") from error
