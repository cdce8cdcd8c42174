"""Shards: a folder of token sequences, written in one pass and read without being loaded.

    00000.tokens    int32, little-endian: the sequences one after the other
    00000.index     int64, little-endian: where each begins, and where the last one ends
    manifest.json   the tokenizer's digest, and of each shard its sequences, tokens, checksum; written last

A folder without its manifest is no set of shards, so an interrupted writer leaves none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from megaent.durable import replace_file, sync
from megaent.errors import DataError

FORMAT = "megaent shards 1"
SHARD_TOKENS = 1 << 26
_TOKENS, _INDEX = np.dtype("<i4"), np.dtype("<i8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    name: str
    sequences: int
    tokens: int
    sha256: str  # of the tokens, then of the index


def write_shards(
    folder: Path, sequences: Iterable[Sequence[int]], *, tokenizer: str, shard_tokens: int = SHARD_TOKENS
) -> list[Shard]:
    """All of ``sequences``, one at a time in memory. Raises DataError for a folder that is taken."""
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} must be a new or an empty folder for shards; name another, or empty it")
    folder.mkdir(parents=True, exist_ok=True)
    arrays, shards = _checked(sequences), []
    while (shard := _write_shard(folder, f"{len(shards):05d}", arrays, shard_tokens)) is not None:
        shards.append(shard)
    if not shards:
        raise DataError(f"{folder} would hold no sequence; give at least one")
    manifest = {"format": FORMAT, "tokenizer": tokenizer, "shards": [asdict(shard) for shard in shards]}
    replace_file(folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    return shards


def _checked(sequences: Iterable[Sequence[int]]) -> Iterator[np.ndarray]:
    for number, sequence in enumerate(sequences):
        array = np.asarray(sequence)
        if array.ndim != 1 or not array.size or array.min() < 0 or array.max() >= 1 << 31:
            raise DataError(
                f"sequence {number} must hold token ids from 0 to 2**31 - 1, got {sequence!r:.60}"
            )
        yield array.astype(_TOKENS)


def _write_shard(folder: Path, name: str, arrays: Iterator[np.ndarray], limit: int) -> Shard | None:
    """Takes of ``arrays`` until there are ``limit`` tokens; None where there are no more."""
    ends, content = [0], hashlib.sha256()
    with (folder / f"{name}.tokens").open("wb") as file:
        for array in arrays:
            file.write(array.tobytes())
            content.update(array.tobytes())
            ends.append(ends[-1] + len(array))
            if ends[-1] >= limit:
                break
    if len(ends) == 1:
        (folder / f"{name}.tokens").unlink()
        return None
    index = np.array(ends, dtype=_INDEX)
    index.tofile(folder / f"{name}.index")
    content.update(index.tobytes())
    for suffix in ("tokens", "index"):
        sync(folder / f"{name}.{suffix}")
    return Shard(name=name, sequences=len(ends) - 1, tokens=ends[-1], sha256=content.hexdigest())


class Shards:
    """The sequences of a folder by number, mapped and not loaded. Raises DataError for a damaged folder."""

    def __init__(self, folder: Path, *, tokenizer: str = "") -> None:
        self.folder = folder
        self.manifest = _manifest(folder)
        self._shards = [Shard(**shard) for shard in self.manifest["shards"]]
        if tokenizer and tokenizer != self.manifest["tokenizer"]:
            raise DataError(
                f"{folder} was made by another tokenizer ({self.manifest['tokenizer']:.12}, this is "
                f"{tokenizer:.12}); make the shards again"
            )
        self._ends = np.cumsum([shard.sequences for shard in self._shards])
        for shard in self._shards:
            self._require_sizes(shard)
        self._mapped = lru_cache(maxsize=8)(self._map)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def digest(self) -> str:
        """Of all that the manifest says, checksums of the tokens included."""
        return hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode()).hexdigest()

    def sequence(self, number: int) -> np.ndarray:
        """int32 [length], a view of the file."""
        place = int(np.searchsorted(self._ends, number, side="right"))
        tokens, index = self._mapped(place)
        inside = number - (int(self._ends[place - 1]) if place else 0)
        return tokens[index[inside] : index[inside + 1]]

    def verify(self) -> None:
        """Reads everything. Raises DataError for the first shard that is not what was written."""
        for shard in self._shards:
            content = hashlib.sha256()
            for suffix in ("tokens", "index"):
                content.update((self.folder / f"{shard.name}.{suffix}").read_bytes())
            if content.hexdigest() != shard.sha256:
                raise DataError(f"{self.folder / shard.name} is not what was written; make the shards again")

    def _map(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        base = self.folder / self._shards[place].name
        tokens = np.memmap(base.with_suffix(".tokens"), dtype=_TOKENS, mode="r")
        return tokens, np.memmap(base.with_suffix(".index"), dtype=_INDEX, mode="r")

    def _require_sizes(self, shard: Shard) -> None:
        for suffix, size in (("tokens", shard.tokens * 4), ("index", (shard.sequences + 1) * 8)):
            file = self.folder / f"{shard.name}.{suffix}"
            found = file.stat().st_size if file.exists() else -1
            if found != size:
                raise DataError(
                    f"{file} must have {size} bytes, got {found if found >= 0 else 'no file'}; copy it again"
                )


def _manifest(folder: Path) -> dict:
    file = folder / "manifest.json"
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file} cannot be read ({error}); name a folder that write_shards has made"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{file} must say format {FORMAT!r}; make the shards again")
    return manifest
