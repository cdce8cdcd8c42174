"""The actor's weights and optimizer state in Megatron's distributed checkpoint format, which reshards.

Each rank writes what it holds; any layout reads it back. Metadata in this format is pickled, so it is
first read by an unpickler that knows only an allow-list of types and refuses everything else.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from megatron.core import dist_checkpointing, parallel_state
from megatron.core.dist_checkpointing.core import CheckpointingException
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

from megaent.actor.optimizer_state import adam_step, set_adam_step, sharded_moments, take_moments
from megaent.actor.state_writer import save_in_this_process
from megaent.errors import CheckpointError

if TYPE_CHECKING:
    from megaent.actor.megatron_actor import MegatronActor

METADATA = ".metadata"
COMMON = "common.pt"  # what is no tensor: the optimizer's step count

_ALLOWED_MODULES = (
    "torch.distributed.checkpoint.metadata",
    "torch.distributed.checkpoint.filesystem",
    "torch.distributed.checkpoint.planner",
)
_ALLOWED_NAMES = {
    ("collections", "OrderedDict"),
    ("torch", "Size"),
    ("torch", "device"),
    ("torch", "float16"),
    ("torch", "float32"),
    ("torch", "float64"),
    ("torch", "bfloat16"),
    ("torch", "int64"),
    ("torch", "int32"),
    ("torch", "uint8"),
    ("torch", "bool"),
    ("torch.serialization", "_get_layout"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._tensor", "_rebuild_from_type_v2"),
    ("torch", "FloatStorage"),
    ("torch", "DoubleStorage"),
    ("torch", "LongStorage"),
    ("torch", "ByteStorage"),
    ("_io", "BytesIO"),
    ("builtins", "complex"),
    ("builtins", "set"),
    ("pathlib", "PosixPath"),
}


def save_state(actor: MegatronActor, folder: Path) -> None:
    """Write this rank's part into ``folder``, which exists and is empty. A collective.

    Raises OSError for every way in which the disk can refuse.
    """
    try:
        save_in_this_process(_sharded_state(actor, is_loading=False), folder)
        if actor.layout.rank == 0:
            _write_common(folder)
    except (RuntimeError, CheckpointException) as error:
        # Of what befell a writer Megatron passes on the text alone.
        raise OSError(str(error).strip().splitlines()[-1]) from error


def _write_common(folder: Path) -> None:
    """Megatron 0.16 writes and wants this file; 0.19 keeps its content among the tensors and reads either.

    With it in place both versions load what the other saved.
    """
    if not (folder / COMMON).exists():
        torch.save(dist_checkpointing.load_common_state_dict(str(folder)), folder / COMMON)


def load_state(actor: MegatronActor, folder: Path) -> None:
    """Fill weights and optimizer from ``folder``, saved under any layout. A collective.

    Raises CheckpointError when the metadata names a type that is not on the allow-list, or when the
    checkpoint is of another model.
    """
    if not (folder / COMMON).is_file():
        raise CheckpointError(
            f"{folder} has no {COMMON}, without which megatron-core 0.16 cannot load it; this program always "
            "writes one: use a checkpoint of its own, or megaent convert"
        )
    check_pickles(folder)
    try:
        loaded = dist_checkpointing.load(_sharded_state(actor, is_loading=True), str(folder))
    except (CheckpointingException, KeyError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0][:300]
        raise CheckpointError(f"{folder} does not fit this model: {first}") from error
    for number, model in enumerate(actor.models):
        model.load_state_dict(loaded[f"model{number}"])
    take_moments(actor.optimizer, loaded["moments"])
    set_adam_step(actor.optimizer, _saved_step(loaded["optimizer"]))


def _saved_step(saved: dict) -> int:
    """Checkpoints of bf16 weights had the step one level deeper."""
    return int(saved.get("optimizer", saved)["state"]["common_step"])


def _sharded_state(actor: MegatronActor, *, is_loading: bool) -> dict:
    metadata = {"dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True)}
    state: dict = {}
    weights: dict = {}
    for number, model in enumerate(actor.models):
        part = model.sharded_state_dict(metadata=metadata)
        state[f"model{number}"] = part
        weights |= (
            part if len(actor.models) == 1 else {f"{number}.{key}": value for key, value in part.items()}
        )
    state["moments"] = sharded_moments(actor.optimizer, weights, is_loading=is_loading)
    state["optimizer"] = {"state": {"common_step": adam_step(actor.optimizer)}}
    return state


# ---------------------------------------------------------------- what the pickles may name


class _Inert:
    """Stands for every allowed type while a pickle is walked: nothing named in it is called."""

    def __new__(cls, *_: object, **__: object) -> _Inert:
        return super().__new__(cls)

    def __call__(self, *_: object, **__: object) -> _Inert:
        return self

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, value: object) -> None: ...

    def extend(self, values: object) -> None: ...

    def add(self, value: object) -> None: ...


class _AllowListed(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if module in _ALLOWED_MODULES or (module, name) in _ALLOWED_NAMES:
            return _Inert
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, identity: object) -> object:
        return _Inert()


def check_pickles(folder: Path) -> None:
    """Raises CheckpointError for the first pickle in ``folder`` that names a type outside the allow-list.

    Those are the metadata, the common state, and what is stored as bytes among the tensors.
    """
    for file in sorted(folder.iterdir()):
        if file.name == METADATA:
            _check(file, file.read_bytes())
        elif file.suffix == ".pt":
            for data in _zipped_pickles(file, file):
                _check(file, data)
    if (folder / METADATA).is_file():
        for file, stored in _stored_bytes(folder):
            for data in _zipped_pickles(file, io.BytesIO(stored)):
                _check(file, data)


def _stored_bytes(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Every entry that is not a tensor, from the places that the metadata, already checked, gives."""
    metadata = FileSystemReader(str(folder)).read_metadata()
    for index, place in (metadata.storage_data or {}).items():
        if isinstance(metadata.state_dict_metadata[index.fqn], BytesStorageMetadata):
            file = folder / place.relative_path
            try:
                with file.open("rb") as stream:
                    stream.seek(place.offset)
                    yield file, stream.read(place.length)
            except OSError as error:
                raise CheckpointError(f"{file} cannot be read: {error}") from error


def _zipped_pickles(file: Path, archived: Path | io.BytesIO) -> list[bytes]:
    try:
        with zipfile.ZipFile(archived) as archive:
            return [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
    except (zipfile.BadZipFile, OSError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error


def _check(file: Path, data: bytes) -> None:
    try:
        _AllowListed(io.BytesIO(data)).load()
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} names {error}, which checkpoints of this program never do; it was not loaded"
        ) from error
    except (EOFError, ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error
