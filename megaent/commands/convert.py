"""``megaent convert``: a Hugging Face folder to a Megatron folder and back, one tensor in memory at a time.

    Hugging Face      config.json, tokenizer files, model*.safetensors
    Megatron          model/ (a distributed checkpoint that every layout loads), hf/ (the other files)

The source decides the direction. A run directory counts as its newest checkpoint that verifies, and a
checkpoint takes config.json and the tokenizer from ``hf/`` of its run. There and back is bit-exact. The
target is written aside and renamed: it is there when it is whole, or not at all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from megaent.actor.convert import Piece, from_shards, pieces, to_shard
from megaent.actor.megatron_folder import hf_shapes, model_bytes, open_pieces, write_pieces
from megaent.durable import sync
from megaent.errors import CheckpointError, ConfigError, ModelError
from megaent.model_folder.architecture import Architecture, read_architecture
from megaent.model_folder.contents import check_weights
from megaent.model_folder.hf_folder import copy_small_files, open_weights, write_weights
from megaent.run.manifest import FOLDER_NAME
from megaent.run.stored_model import newest_checkpoint, require_whole

Report = Callable[[str], object]


def convert(source: Path, target: Path, *, report: Report = print, bytes_per_file: int = 2 * 2**30) -> None:
    """Convert ``source`` to the other form at ``target``.

    In memory at once: one layer, or the embedding, towards Megatron; ``bytes_per_file`` of safetensors and
    one tensor towards Hugging Face. Raises ConfigError for a target that is taken or has no room, ModelError
    for an unknown, incomplete or damaged source, CheckpointError for a damaged checkpoint.
    """
    source, target = source.resolve(), target.resolve()
    if not source.is_dir():
        raise ModelError(f"{source} is not a folder; {_SOURCES}")
    with _aside(target) as partial:
        if (source / "config.json").is_file():
            _to_megatron(source, partial, report)
        else:
            model, hf = _find_model(source, report)
            _to_hugging_face(model, hf, partial, report, bytes_per_file)
    report(f"{target} is written")


_SOURCES = (
    "convert takes a Hugging Face folder (config.json and safetensors), a run directory, one of its "
    "checkpoints, or a folder that convert made"
)

# ---------------------------------------------------------------- Hugging Face to Megatron


def _to_megatron(source: Path, partial: Path, report: Report) -> None:
    architecture = read_architecture(source)
    for left_out in check_weights(source, architecture):
        report(f"left out: {left_out}")
    progress = _Progress(2 * sum(1 for _ in pieces(architecture)), report)
    with open_weights(source) as read:
        dtype = read("model.norm.weight").dtype
        _check_room(partial, model_bytes(architecture, dtype))

        def whole(piece: Piece) -> Tensor:
            tensors = tuple(read(name) for name in piece.hf_names)
            _check_tensors(piece, tensors, architecture, dtype)
            return to_shard(piece, tensors, architecture, tp=1, tp_rank=0)

        def whole_to_write(piece: Piece) -> Tensor:
            progress.step("writing", piece)
            return whole(piece)

        (partial / "model").mkdir()
        write_pieces(partial / "model", architecture, dtype, whole_to_write)
        written = open_pieces(partial / "model", architecture)
        for piece in pieces(architecture):
            progress.step("comparing", piece)
            _check_equal(piece, whole(piece), written(piece))
    copy_small_files(source, partial / "hf")


def _check_tensors(
    piece: Piece, tensors: tuple[Tensor, ...], architecture: Architecture, dtype: torch.dtype
) -> None:
    for name, tensor, shape in zip(piece.hf_names, tensors, hf_shapes(piece, architecture), strict=True):
        if tuple(tensor.shape) != shape:
            raise ModelError(
                f"{name} has shape {list(tensor.shape)}, config.json needs {list(shape)}; take both from one "
                "model"
            )
        if tensor.dtype != dtype or dtype not in _INTEGERS:
            raise ModelError(
                f"{name} is {tensor.dtype} and model.norm.weight {dtype}; expected one type of "
                f"{', '.join(map(str, _INTEGERS))}: take the release of the model that is not quantised"
            )


_INTEGERS = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


def _check_equal(piece: Piece, given: Tensor, found: Tensor) -> None:
    """Bit by bit: as integers NaN equals NaN, and 0 is not -0."""
    integer = _INTEGERS[given.dtype]
    if found.dtype != given.dtype or not torch.equal(given.contiguous().view(integer), found.view(integer)):
        raise CheckpointError(
            f"{piece.parameter} is not read back as it was written; the disk or the memory of this machine "
            "is faulty, so convert on another one"
        )


# ---------------------------------------------------------------- Megatron to Hugging Face


def _to_hugging_face(model: Path, hf: Path, partial: Path, report: Report, bytes_per_file: int) -> None:
    if not (hf / "config.json").is_file():
        raise ModelError(
            f"{hf / 'config.json'} is missing, and weights do not say what model they are of; put there "
            "config.json and the tokenizer's files of the Hugging Face folder that the run began with"
        )
    architecture = read_architecture(hf)
    read = open_pieces(model, architecture)
    dtype = read(next(piece for piece in pieces(architecture) if piece.kind == "whole")).dtype
    _check_room(partial, model_bytes(architecture, dtype))
    progress = _Progress(sum(1 for _ in pieces(architecture)), report)

    def named_tensors() -> Iterator[tuple[str, Tensor]]:
        for piece in pieces(architecture):
            progress.step("writing", piece)
            yield from zip(piece.hf_names, from_shards(piece, [read(piece)], architecture), strict=True)

    write_weights(partial, named_tensors(), bytes_per_file=bytes_per_file)
    copy_small_files(hf, partial)
    _state_dtype(partial / "config.json", dtype)


def _find_model(source: Path, report: Report) -> tuple[Path, Path]:
    """The distributed checkpoint of ``source`` and the folder of its Hugging Face files."""
    if FOLDER_NAME.fullmatch(source.name):
        report(f"verifying {source}")
        require_whole(source)
        return source / "model", source.parent.parent / "hf"
    if (source / "checkpoints").is_dir():
        newest = newest_checkpoint(source, report)
        report(f"converting {newest}")
        return newest / "model", source / "hf"
    if (source / "model").is_dir():
        return source / "model", source / "hf"
    raise ModelError(f"{source} has no config.json, no checkpoints/ and no model/; {_SOURCES}")


def _state_dtype(config: Path, dtype: torch.dtype) -> None:
    """A run may have another precision than the model it began with; by config.json loaders round to it."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    name = str(dtype).removeprefix("torch.")
    stale = {key: name for key in ("dtype", "torch_dtype") if settings.get(key, name) != name}
    if stale:
        text = json.dumps(settings | stale, indent=2, ensure_ascii=False)
        config.write_text(text + "\n", encoding="utf-8")


# ---------------------------------------------------------------- files and folders


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A folder beside ``target``: it becomes ``target`` when the block ends well, else it is removed."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} exists and is no empty folder; give another target, or remove it first")
    partial = target.with_name(f".{target.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)  # of an attempt that was killed
    made = [folder for folder in partial.parents if not folder.exists()]
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in [*partial.rglob("*"), partial]:
            sync(path)
        partial.replace(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in made:
            folder.rmdir()
        raise
    sync(target.parent)


def _check_room(partial: Path, needed: int) -> None:
    free = shutil.disk_usage(partial).free
    if free < needed:
        raise ConfigError(
            f"{partial.parent} has {free} bytes free, the model needs {needed}; give a target on another disk"
        )


class _Progress:
    """A line for every twentieth of the way."""

    def __init__(self, total: int, report: Report) -> None:
        self._total, self._report = total, report
        self._done = 0

    def step(self, verb: str, piece: Piece) -> None:
        before, self._done = self._done, self._done + 1
        if 20 * self._done // self._total > 20 * before // self._total:
            self._report(f"{100 * self._done // self._total:3d} %  {verb} {piece.parameter}")
