"""A Hugging Face folder of safetensors, read one tensor at a time and written one shard at a time."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from megaent.errors import ModelError
from megaent.model_folder.stored import INDEX, SINGLE, stored_tensors

_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".ot"}
_SMALL = 128 * 2**20  # bytes; the largest tokenizers have some 35 MB


@contextmanager
def open_weights(folder: Path) -> Iterator[Callable[[str], Tensor]]:
    """A function from a tensor's name to the tensor; files are mapped, not loaded.

    Raises ModelError for a missing file, a missing tensor or a damaged file.
    """
    files = weight_files(folder)
    handles: dict[Path, object] = {}

    def read(name: str) -> Tensor:
        if name not in files:
            raise ModelError(f"{folder} has no tensor {name!r}; its weights do not fit its config.json")
        path = files[name]
        try:
            if path not in handles:
                handles[path] = safe_open(path, framework="pt")
            return handles[path].get_tensor(name)  # type: ignore[attr-defined]
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} cannot be read: {error}; copy the model again") from error

    try:
        yield read
    finally:
        handles.clear()


def weight_files(folder: Path) -> dict[str, Path]:
    """The file of every tensor, by tensor name."""
    return {name: stored.file for name, stored in stored_tensors(folder).items()}


def weights_digest(folder: Path) -> str:
    """sha256 over the weight files in order of name: the identity of a model, read from the disk once."""
    whole = hashlib.sha256()
    for path in sorted(set(weight_files(folder).values())):
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def write_weights(
    folder: Path, named_tensors: Iterable[tuple[str, Tensor]], *, bytes_per_file: int = 4 * 2**30
) -> None:
    """Stream tensors into one or more safetensors files; at most one file's worth is in memory."""
    names: list[list[str]] = []
    pending: dict[str, Tensor] = {}
    pending_bytes = total = 0

    def flush() -> None:
        nonlocal pending_bytes
        if pending:
            save_file(pending, folder / f"part-{len(names):05d}", metadata={"format": "pt"})
            names.append(list(pending))
            pending.clear()
            pending_bytes = 0

    for name, tensor in named_tensors:
        size = tensor.numel() * tensor.element_size()
        if pending_bytes + size > bytes_per_file:
            flush()
        pending[name] = tensor.detach().to("cpu", copy=True).contiguous()
        pending_bytes += size
        total += size
    flush()
    _name_files(folder, names, total)


def _name_files(folder: Path, names: list[list[str]], total: int) -> None:
    if len(names) == 1:
        (folder / "part-00000").rename(folder / SINGLE)
        return
    weight_map = {}
    for number, tensors in enumerate(names):
        file = f"model-{number + 1:05d}-of-{len(names):05d}.safetensors"
        (folder / f"part-{number:05d}").rename(folder / file)
        weight_map |= dict.fromkeys(tensors, file)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def copy_small_files(source: Path, target: Path) -> None:
    """Copy what a Hugging Face folder holds besides weights: config.json, tokenizer, generation defaults."""
    target.mkdir(exist_ok=True)
    for path in sorted(source.iterdir()):
        is_weight = path.suffix in _WEIGHT_SUFFIXES or path.name.endswith(".index.json")
        is_visible_file = path.is_file() and not path.name.startswith(".")
        if is_visible_file and not is_weight and path.stat().st_size <= _SMALL:
            shutil.copyfile(path, target / path.name)
