"""Writing so that a kill or a power cut at any instant leaves the old file or the new one, never a part."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from megaent.errors import MegaentError


def replace_file(path: Path, text: str) -> None:
    """Write ``text`` as the whole of ``path``; readers see the old file or the new one. Raises OSError."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, data: bytes | memoryview) -> None:
    """The same of bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.new")
    with aside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Make a file's bytes, or a folder's entries, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def explained(explain: Callable[[str], MegaentError]) -> Iterator[None]:
    """Turn an OSError, whose own words may name no file at all, into what ``explain`` makes of its cause."""
    try:
        yield
    except OSError as error:
        raise explain(error.strerror or str(error)) from error
