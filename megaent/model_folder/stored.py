"""Which tensors a folder's safetensors files hold: names, types, shapes and places, read from their headers
alone.

A file begins with the length of its header (8 bytes, little-endian), the header (JSON: name to dtype, shape
and begin and end of the bytes after it), and the bytes. See https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from megaent.errors import ModelError
from megaent.model_folder.json_file import COPY_AGAIN, read_fields

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_LONGEST_HEADER = 100 * 2**20  # bytes; the format's own limit
_CHUNK = 2**22
_OTHER_KINDS = {
    "*.gguf": "GGUF files are quantised or packed",
    "*.bin": "PyTorch's .bin files can run code when they are read",
    "*.pt": "PyTorch's .pt files can run code when they are read",
    "*.pth": "PyTorch's .pth files can run code when they are read",
    "*.h5": "TensorFlow's weights are not read",
    "*.msgpack": "Flax's weights are not read",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One tensor in a file."""

    file: Path
    dtype: str  # of the format: F32, BF16, F8_E4M3, …
    shape: tuple[int, ...]
    start: int  # its first byte in the file
    size: int  # bytes

    def chunks(self) -> Iterator[bytes]:
        with self.file.open("rb") as file:
            file.seek(self.start)
            left = self.size
            while left:
                yield file.read(min(_CHUNK, left))
                left -= min(_CHUNK, left)


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of the model by name. Raises ModelError when files disagree or are damaged."""
    index, single = folder / INDEX, folder / SINGLE
    if not index.is_file():
        if not single.is_file():
            raise _no_weights(folder)
        _refuse_shards(folder)
        return read_header(single)
    named = _weight_map(index)
    if single.is_file() and set(named.values()) != {SINGLE}:
        raise ModelError(
            f"{folder} has both {SINGLE} and {INDEX}, which names other files; remove the one that is not "
            "the model's"
        )
    found: dict[str, Stored] = {}
    for name in sorted(set(named.values())):
        if not (folder / name).is_file():
            raise ModelError(f"{folder / name} is missing, and {INDEX} names it; {COPY_AGAIN}")
        found |= read_header(folder / name)
    for name in sorted(found.keys() ^ named.keys()):
        where, not_where = ("its files", INDEX) if name in found else (INDEX, "its files")
        raise ModelError(f"{folder}: {name} is in {where} and not in {not_where}; {COPY_AGAIN}")
    for name, stored in found.items():
        if stored.file.name != named[name]:
            raise ModelError(f"{folder}: {name} is not in {named[name]}, where {INDEX} has it; {COPY_AGAIN}")
    return found


def _weight_map(index: Path) -> dict[str, str]:
    fields = read_fields(index).object("weight_map")
    if fields is None or not all(_is_plain_name(name) for name in fields.values.values()):
        raise ModelError(f"{index} must map each tensor to a file beside it (weight_map); {COPY_AGAIN}")
    return fields.values


def _is_plain_name(name: object) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name


def _refuse_shards(folder: Path) -> None:
    shards = sorted(folder.glob("model-*-of-*.safetensors"))
    if shards:
        raise ModelError(
            f"{folder} has both {SINGLE} and {shards[0].name} without {INDEX}; remove what is not the model's"
        )


def _no_weights(folder: Path) -> ModelError:
    if any(folder.glob("*.safetensors")):
        return ModelError(
            f"{folder} has safetensors files but neither {SINGLE} nor {INDEX}, which tells what they hold; "
            f"{COPY_AGAIN}"
        )
    for pattern, reason in _OTHER_KINDS.items():
        if any(folder.glob(pattern)):
            return ModelError(
                f"{folder} has neither {SINGLE} nor {INDEX}; {reason}: take the model's safetensors release "
                "in bfloat16"
            )
    return ModelError(f"{folder} has neither {SINGLE} nor {INDEX}; only safetensors are read: {COPY_AGAIN}")


# ---------------------------------------------------------------- one file


def read_header(file: Path) -> dict[str, Stored]:
    """The tensors of one safetensors file. Raises ModelError when it is damaged or cut."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or not 0 < length <= min(size - 8, _LONGEST_HEADER):
                raise _damaged(file, _what_instead(file))
            header = json.loads(stream.read(length).decode("utf-8"))
        if not isinstance(header, dict):
            raise _damaged(file, "its header is no object")
        header.pop("__metadata__", None)
        found = {name: _stored(file, entry, 8 + length) for name, entry in header.items()}
    except OSError as error:
        raise _damaged(file, error.strerror or str(error)) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(file, f"its header is damaged ({error})") from error
    end = max((stored.start + stored.size for stored in found.values()), default=8 + length)
    if end != size:
        raise _damaged(file, f"it has {size} bytes and its header tells of {end}")
    return found


def _stored(file: Path, entry: dict, offset: int) -> Stored:
    begin, end = entry["data_offsets"]
    shape = tuple(int(length) for length in entry["shape"])
    if not 0 <= begin <= end or min(shape, default=0) < 0:
        raise ValueError(f"offsets {begin} to {end}, shape {list(shape)}")
    bits = _BITS.get(entry["dtype"])
    if bits is not None and 8 * (end - begin) != bits * math.prod(shape):
        raise ValueError(f"{end - begin} bytes for {entry['dtype']} {list(shape)}")
    return Stored(file=file, dtype=entry["dtype"], shape=shape, start=offset + begin, size=end - begin)


_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16}


def _what_instead(file: Path) -> str:
    with file.open("rb") as stream:
        if stream.read(19) == b"version https://git":
            return "it is a pointer of git-lfs: run `git lfs pull` in its folder"
    return "its header is damaged or cut"


def _damaged(file: Path, why: str) -> ModelError:
    return ModelError(f"{file} cannot be read: {why}; {COPY_AGAIN}")
