"""What a checkpoint holds, file by file: digests taken by every rank, one list, and its check.

``manifest.json`` names every file of a checkpoint with its size and sha256, and carries its own digest.
It is rendered in one way only, so a byte that differs anywhere is found, in the list as in the files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from megaent import durable
from megaent.errors import CheckpointError

FORMAT = 1
MANIFEST = "manifest.json"
STATE = "state.json"
FOLDER_NAME = re.compile(r"step-(\d{8,})(\.old)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDigest:
    num_bytes: int
    sha256: str  # 64 hexadecimal digits


# ---------------------------------------------------------------- on every rank


def digest(folder: Path, *, rank: int, world_size: int) -> dict[str, FileDigest]:
    """This rank's share of the files under ``folder``, flushed to the disk: relative name -> digest.

    To be called when every rank has written. Raises CheckpointError for what cannot be read.
    """
    with explained(folder):
        share = files_under(folder)[rank::world_size]
        for name in share:
            durable.sync(folder / name)
        return {name: _digest_file(folder / name) for name in share}


def verify(path: Path, *, rank: int = 0, world_size: int = 1) -> list[str]:
    """This rank's share of what is wrong with a checkpoint, a sentence each; the shares together are all."""
    try:
        listed = read_manifest(path)
    except CheckpointError as error:
        return [str(error)] if rank == 0 else []
    found = set(files_under(path)) - {MANIFEST}
    names = sorted(listed.keys() | found)
    problems = [_check_file(path, name, listed.get(name), name in found) for name in names[rank::world_size]]
    return [problem for problem in problems if problem]


def read_state(path: Path) -> dict[str, object]:
    """What ``commit`` was given as ``state``. Raises CheckpointError when it is not that to the bit."""
    listed = read_manifest(path)
    problem = _check_file(path, STATE, listed.get(STATE), (path / STATE).is_file())
    if problem:
        raise CheckpointError(f"{problem}; use an earlier checkpoint")
    return json.loads((path / STATE).read_bytes())


def read_manifest(path: Path) -> dict[str, FileDigest]:
    """The files of a checkpoint by their relative names. Raises CheckpointError unless it is as written."""
    file = path / MANIFEST
    try:
        data = file.read_bytes()
        record = json.loads(data)
        files = {
            name: FileDigest(num_bytes=entry["bytes"], sha256=entry["sha256"])
            for name, entry in record["files"].items()
        }
        step, version = record["step"], record["format"]
    except OSError as error:
        raise CheckpointError(
            f"{file} cannot be read: {error.strerror}; use an earlier checkpoint"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{file} is damaged: it is not a manifest; use an earlier checkpoint"
        ) from error
    if version != FORMAT:
        raise CheckpointError(f"{file} has format {version!r}, this version of megaent reads {FORMAT}")
    # Rendered again it must be the same bytes, its own digest among them: no change goes unseen.
    if data != render_manifest(step, files):
        raise CheckpointError(f"{file} is damaged: it differs from its own sha256; use an earlier checkpoint")
    if step != step_of(path):
        raise CheckpointError(
            f"{file} belongs to step {step}, but its folder is named {path.name}; rename it back"
        )
    return files


def step_of(path: Path) -> int:
    """The step a checkpoint's folder is named for."""
    match = FOLDER_NAME.fullmatch(path.name)
    if match is None:
        raise CheckpointError(f"a checkpoint's folder is named like step-00000040, got {path}")
    return int(match.group(1))


def looks_whole(path: Path) -> bool:
    """Cheap: the manifest and every file's size, no digests."""
    try:
        listed = read_manifest(path)
        return all((path / name).stat().st_size == entry.num_bytes for name, entry in listed.items())
    except (CheckpointError, OSError):
        return False


def _check_file(path: Path, name: str, listed: FileDigest | None, is_there: bool) -> str:
    """What is wrong with one file, or ""."""
    file = path / name
    if listed is None:
        return f"{file} is not in {MANIFEST}"
    if not is_there:
        return f"{file} is missing"
    try:
        found = _digest_file(file)
    except OSError as error:
        return f"{file} cannot be read: {error.strerror}"
    if found.num_bytes != listed.num_bytes:
        return f"{file} has {found.num_bytes} bytes, expected {listed.num_bytes}"
    if found.sha256 != listed.sha256:
        return f"{file} has sha256 {found.sha256}, expected {listed.sha256}"
    return ""


# ---------------------------------------------------------------- bytes


def render_state(state: Mapping[str, object]) -> bytes:
    text = json.dumps(state, indent=1, sort_keys=True, allow_nan=False)
    if json.loads(text) != state:
        raise ValueError(
            "state must be what JSON gives back: dicts with str keys, lists and no tuples, str, numbers, None"
        )
    return text.encode("ascii") + b"\n"


def render_manifest(step: int, files: Mapping[str, FileDigest]) -> bytes:
    listed = {name: {"bytes": files[name].num_bytes, "sha256": files[name].sha256} for name in sorted(files)}
    record: dict[str, object] = {"format": FORMAT, "step": step, "files": listed}
    own = hashlib.sha256(json.dumps(record, sort_keys=True).encode("ascii")).hexdigest()
    return json.dumps(record | {"sha256": own}, indent=1).encode("ascii") + b"\n"


def files_under(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def _digest_file(file: Path) -> FileDigest:
    with file.open("rb") as stream:
        return FileDigest(
            sha256=hashlib.file_digest(stream, "sha256").hexdigest(),
            num_bytes=os.fstat(stream.fileno()).st_size,
        )


def write_file(file: Path, data: bytes) -> FileDigest:
    with file.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return FileDigest(num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def explained(folder: Path, *, needed: int = 0) -> AbstractContextManager[None]:
    """Turn an OSError into a CheckpointError that names ``folder`` and, where known, the bytes it needs."""

    def error(cause: str) -> CheckpointError:
        there = next(path for path in [folder, *folder.parents] if path.exists())
        free = shutil.disk_usage(there).free
        return CheckpointError(no_room(folder, needed=needed, free=free, cause=cause))

    return durable.explained(error)


def no_room(folder: Path, *, needed: int, free: int, cause: str = "no room for it") -> str:
    known = f"{needed} bytes are needed and " if needed else ""
    return (
        f"{folder} could not be written: {cause} ({known}{free} bytes are free); earlier checkpoints are "
        "untouched. Make room, or copy the run to another disk and resume the copy"
    )
