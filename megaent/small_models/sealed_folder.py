"""A folder that is either whole or absent: filled aside, sealed with checksums, renamed into place.

The seal is a ``SHA256SUMS`` file, so ``sha256sum -c SHA256SUMS`` checks one by hand. Makers need no
lock: whoever renames first wins, and the others find an intact folder and drop their own.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from megaent.durable import sync

SEAL = "SHA256SUMS"


def make_sealed(target: Path, fill: Callable[[Path], None]) -> bool:
    """Make ``target`` by ``fill(folder)`` unless it is intact already; True when it was made now.

    Whatever stands at ``target`` and is not intact is replaced.
    """
    if is_intact(target):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = _beside(target)
    aside.mkdir()
    try:
        fill(aside)
        _seal(aside)
        _rename_into_place(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return True


def is_intact(folder: Path) -> bool:
    """Whether ``folder`` is sealed and every file named by the seal has its checksum."""
    try:
        lines = (folder / SEAL).read_text(encoding="utf-8").splitlines()
        sums = [line.split("  ", 1) for line in lines]
        return bool(sums) and all(_sha256(folder / name) == digest for digest, name in sums)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        # ValueError: a seal that is not text, or a line without two fields.
        return False


def _seal(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / SEAL).write_text("".join(lines), encoding="utf-8")
    for path in files:
        # Some writers make private files whatever the umask; a model is read by every rank and server.
        path.chmod(path.stat().st_mode | 0o444)
    for path in [*files, folder / SEAL, folder]:
        sync(path)


def _rename_into_place(aside: Path, target: Path) -> None:
    # Each turn either renames, finds another maker's intact folder, or moves a damaged one away; more
    # than a few turns would mean that somebody keeps writing damaged folders there.
    for _ in range(10):
        try:
            os.rename(aside, target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        else:
            sync(target.parent)
            return
        if is_intact(target):
            return
        _remove(target)
    raise OSError(errno.EEXIST, "another process keeps writing a damaged folder here", str(target))


def _remove(target: Path) -> None:
    away = _beside(target)
    try:
        os.rename(target, away)
    except FileNotFoundError:
        return
    if away.is_dir():
        shutil.rmtree(away, ignore_errors=True)
    else:
        away.unlink()


def _beside(target: Path) -> Path:
    """A fresh name in the same file system, so that a rename is atomic."""
    return target.parent / f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
