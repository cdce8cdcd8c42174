"""Checkpoints that a kill at any instant leaves whole: the old set, or the old set and the new one.

A checkpoint is written aside in a hidden folder by every rank, hashed and flushed file by file, listed in
a manifest, and becomes one by a single rename; ``latest`` moves after that, and only then are older ones
removed. So whatever is named ``step-<number>`` was complete when it got its name, and ``verify`` says
whether it still is. The store knows folders and digests; what the files mean is the actor's business.

    checkpoints/latest                     "step-00000040", for people; the store itself reads the folders
    checkpoints/step-00000040/model/…      by many ranks, through Megatron
    checkpoints/step-00000040/state.json   the trainer's state
    checkpoints/step-00000040/manifest.json
    checkpoints/.step-00000060.partial/    under way, or what a kill left of it
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from megaent.durable import replace_file, sync
from megaent.errors import CheckpointError
from megaent.run.manifest import (
    FOLDER_NAME,
    MANIFEST,
    STATE,
    FileDigest,
    digest,
    explained,
    files_under,
    looks_whole,
    no_room,
    read_manifest,
    read_state,
    render_manifest,
    render_state,
    step_of,
    verify,
    write_file,
)

__all__ = [
    "CheckpointStore",
    "FileDigest",
    "digest",
    "newest_valid",
    "read_state",
    "save_checkpoint",
    "verify",
]

LATEST = "latest"  # a small file that names the newest folder

_T = TypeVar("_T")


class Ranks(Protocol):
    """Who takes part; all ranks see the same folder. ``megaent.actor.parallel.Layout`` is one."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    def gather_everywhere(self, value: _T) -> list[_T]:
        """Every rank's ``value``, in rank order, on every rank."""
        ...


# ---------------------------------------------------------------- what all ranks call


def save_checkpoint(
    store: CheckpointStore,
    step: int,
    *,
    write_model: Callable[[Path], None],
    state: Mapping[str, object],
    ranks: Ranks,
) -> Path:
    """Write and commit the checkpoint of ``step``. A collective; returns its folder.

    ``write_model`` is called on every rank with the empty folder to fill. Raises CheckpointError on every
    rank when one of them could not write; the earlier checkpoints are untouched then.
    """
    is_first = ranks.rank == 0
    together(lambda: store.begin(step) if is_first else None, ranks)
    partial = store.partial(step)
    together(lambda: _write_share(partial / "model", write_model), ranks)
    shares = together(lambda: digest(partial, rank=ranks.rank, world_size=ranks.world_size), ranks)
    digests = {name: value for share in shares for name, value in share.items()}
    together(lambda: store.commit(step, digests, state) if is_first else None, ranks)
    return store.final(step)


def newest_valid(store: CheckpointStore, ranks: Ranks) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, and what is wrong with each newer one. A collective.

    None where there is no checkpoint at all; raises CheckpointError when there are some and all are damaged.
    """
    refused: list[str] = []
    # One rank's listing: on a network file system another may not see the newest folder yet.
    for path in ranks.gather_everywhere(store.candidates())[0]:
        share = verify(path, rank=ranks.rank, world_size=ranks.world_size)
        problems = [problem for part in ranks.gather_everywhere(share) for problem in part]
        if not problems:
            return path, refused
        refused += problems
    if refused:
        raise CheckpointError(
            "every checkpoint is damaged; restore one from a copy, or start a new run. " + "; ".join(refused)
        )
    return None, refused


def together(call: Callable[[], _T], ranks: Ranks) -> list[_T]:
    """Every rank's result of ``call``; where it fails on one, that error there and CheckpointError elsewhere.

    A rank that fails alone would leave the others waiting for it until the process group's limit.
    """
    result: _T | None = None
    failure: Exception | None = None
    try:
        result = call()
    except Exception as error:
        failure = error
    outcomes = ranks.gather_everywhere((result, str(failure) if failure else None))
    if failure is not None:
        raise failure
    for rank, (_, text) in enumerate(outcomes):
        if text is not None:
            raise CheckpointError(f"rank {rank} could not save: {text}")
    return [value for value, _ in outcomes]  # type: ignore[misc]


def _write_share(folder: Path, write_model: Callable[[Path], None]) -> None:
    with explained(folder):
        write_model(folder)


# ---------------------------------------------------------------- the folder, written by rank 0


class CheckpointStore:
    """The checkpoints of one run, under ``folder``; of those that are whole the newest ``keep`` stay."""

    def __init__(self, folder: Path, *, keep: int) -> None:
        if keep < 2:
            raise ValueError(
                f"keep must be 2 or more, so that a damaged checkpoint has a predecessor; got {keep}"
            )
        self.folder = folder
        self.keep = keep

    def final(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def partial(self, step: int) -> Path:
        return self.folder / f".step-{step:08d}.partial"

    def begin(self, step: int) -> Path:
        """An empty folder, with ``model/`` in it, to write the checkpoint of ``step`` into.

        What interrupted attempts left is removed first. Raises CheckpointError when the disk has less room
        than the last checkpoint took: ranks that run out of it in the middle would wait for each other.
        """
        partial = self.partial(step)
        needed = self._last_size()
        with explained(partial, needed=needed):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clear_leftovers()
            free = shutil.disk_usage(self.folder).free
            if free < needed:
                raise CheckpointError(no_room(partial, needed=needed, free=free))
            (partial / "model").mkdir(parents=True)
        return partial

    def commit(self, step: int, digests: Mapping[str, FileDigest], state: Mapping[str, object]) -> Path:
        """Make what ``begin`` gave, now filled and digested, the checkpoint of ``step``.

        ``digests`` are those of every rank together. Raises CheckpointError when they and the folder differ
        or the disk refuses; the attempt is removed then, and everything committed before stays.
        """
        partial, final = self.partial(step), self.final(step)
        text = render_state(state)
        needed = len(text) + sum(entry.num_bytes for entry in digests.values())
        try:
            with explained(partial, needed=needed):
                _check_complete(partial, digests)
                files = {**digests, STATE: write_file(partial / STATE, text)}
                write_file(partial / MANIFEST, render_manifest(step, files))
                for folder in [*(path for path in partial.rglob("*") if path.is_dir()), partial]:
                    sync(folder)
        except CheckpointError:
            # Its space is what the disk lacks; what cannot be removed stays hidden, so is no candidate.
            shutil.rmtree(partial, ignore_errors=True)
            raise
        with explained(self.folder):
            self._rename(partial, final)
            replace_file(self.folder / LATEST, final.name + "\n")
            self._prune(step)
        return final

    def candidates(self) -> list[Path]:
        """Committed checkpoints, newest first, unverified. A kill may come before ``latest`` moves."""
        if not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if FOLDER_NAME.fullmatch(path.name) and path.is_dir()]
        return sorted(found, key=lambda path: (step_of(path), not _is_superseded(path)), reverse=True)

    def _rename(self, partial: Path, final: Path) -> None:
        if final.exists():
            # A step trained again, after its checkpoint was refused. The old one stays a candidate until
            # the new one has the name.
            superseded = final.with_name(final.name + ".old")
            self._remove(superseded)
            final.rename(superseded)
        partial.rename(final)
        sync(self.folder)

    def _prune(self, step: int) -> None:
        """Later steps than ``step`` belong to a course that was left; they neither count nor go."""
        whole = 0
        for path in self.candidates():
            if step_of(path) > step:
                continue
            is_replaced = _is_superseded(path) and self.final(step_of(path)).exists()
            if whole == self.keep or is_replaced:
                self._remove(path)
            elif looks_whole(path):
                whole += 1

    def _remove(self, path: Path) -> None:
        """By way of a hidden name, so that a checkpoint half removed is no candidate."""
        if path.exists():
            hidden = path.with_name(f".{path.name}.removed")
            path.rename(hidden)
            shutil.rmtree(hidden)

    def _clear_leftovers(self) -> None:
        for path in sorted(self.folder.glob(".step-*")):
            shutil.rmtree(path)
        for path in sorted(self.folder.glob(f".{LATEST}.*")):
            path.unlink()

    def _last_size(self) -> int:
        """Bytes of the newest checkpoint that looks whole; 0 before the first."""
        for path in self.candidates():
            if looks_whole(path):
                return sum(entry.num_bytes for entry in read_manifest(path).values())
        return 0


def _check_complete(partial: Path, digests: Mapping[str, FileDigest]) -> None:
    found = {name: (partial / name).stat().st_size for name in files_under(partial)}
    listed = {name: entry.num_bytes for name, entry in digests.items()}
    if not listed or found != listed:
        differing = sorted(found.items() ^ listed.items())
        first = differing[0][0] if differing else "no file at all"
        raise CheckpointError(
            f"{partial} holds {len(found)} files, {len(listed)} were digested; first that differs: {first}. "
            "Another process writes to this run's folder, or a file has not arrived; end it and save again"
        )


def _is_superseded(path: Path) -> bool:
    return path.name.endswith(".old")
