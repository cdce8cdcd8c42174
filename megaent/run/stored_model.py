"""A model as it lies on a disk, whoever wrote it: a Hugging Face folder, a run, one of its checkpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from megaent.actor.convert import from_shards, pieces
from megaent.actor.megatron_folder import open_pieces
from megaent.errors import CheckpointError, ModelError
from megaent.model_folder.architecture import Architecture, read_architecture
from megaent.model_folder.contents import check_weights
from megaent.model_folder.hf_folder import open_weights
from megaent.run.checkpoint import CheckpointStore, newest_valid
from megaent.run.identity import fingerprint
from megaent.run.manifest import FOLDER_NAME, MANIFEST, step_of, verify
from megaent.types import Alone

SOURCES = (
    "expected a Hugging Face folder (config.json and safetensors), a run directory, one of its "
    "checkpoints, or a folder that megaent convert made"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    folder: Path  # config.json and the tokenizer
    weights: Path  # a distributed checkpoint, or ``folder`` again
    digest: str  # tells it from other weights
    step: int = 0  # of a run's checkpoint
    run: Path | None = None

    @property
    def architecture(self) -> Architecture:
        return read_architecture(self.folder)

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight under its Hugging Face name, a few in memory at a time."""
        architecture = self.architecture
        if self.weights != self.folder:
            read_piece = open_pieces(self.weights, architecture)
            for piece in pieces(architecture):
                yield from zip(
                    piece.hf_names, from_shards(piece, [read_piece(piece)], architecture), strict=True
                )
            return
        with open_weights(self.folder) as read:
            for piece in pieces(architecture):
                yield from ((name, read(name)) for name in piece.hf_names)


def find_stored_model(source: Path, say: Callable[[str], object]) -> StoredModel:
    """Of a run the newest checkpoint that verifies. Raises ModelError or CheckpointError."""
    source = source.resolve()
    if (source / "config.json").is_file():
        check_weights(source, read_architecture(source))
        return StoredModel(folder=source, weights=source, digest=fingerprint(source))
    if FOLDER_NAME.fullmatch(source.name):
        require_whole(source)
        return _of_checkpoint(source, source.parent.parent)
    if (source / "checkpoints").is_dir():
        return _of_checkpoint(newest_checkpoint(source, say), source)
    if (source / "model").is_dir() and (source / "hf" / "config.json").is_file():
        return StoredModel(folder=source / "hf", weights=source / "model", digest=_digest(source / "model"))
    raise ModelError(f"{source} has no config.json, no checkpoints/ and no model/; {SOURCES}")


def require_whole(checkpoint: Path) -> None:
    """Raises CheckpointError where a file of it is not as its manifest says."""
    problems = verify(checkpoint)
    if problems:
        raise CheckpointError(f"{problems[0]}; use an earlier checkpoint")


def newest_checkpoint(run: Path, say: Callable[[str], object]) -> Path:
    """The newest that verifies; those that do not are told. Raises CheckpointError where none does."""
    say(f"verifying the newest checkpoint of {run}")
    newest, refused = newest_valid(CheckpointStore(run / "checkpoints", keep=2), Alone())
    for problem in refused:
        say(f"refused: {problem}")
    if newest is None:
        raise CheckpointError(f"{run} has no checkpoint yet; let the run save one (checkpoint.every)")
    return newest


def _of_checkpoint(checkpoint: Path, run: Path) -> StoredModel:
    if not (run / "hf" / "config.json").is_file():
        raise ModelError(
            f"{run / 'hf' / 'config.json'} is missing; copy it from the model that the run began with"
        )
    return StoredModel(
        folder=run / "hf",
        weights=checkpoint / "model",
        digest=hashlib.sha256((checkpoint / MANIFEST).read_bytes()).hexdigest()[:16],
        step=step_of(checkpoint),
        run=run,
    )


def _digest(folder: Path) -> str:
    """Of a checkpoint without a manifest: the names, sizes and first bytes of its files."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            whole.update(f"{path.name} {path.stat().st_size}".encode() + file.read(2**20))
    return whole.hexdigest()[:16]
