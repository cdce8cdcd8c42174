"""Shards: a folder of token sequences, written in one pass and read without being loaded.

    00000.tokens    int32, little-endian: the sequences one after the other
    00000.index     int64, little-endian: where each begins, and where the last one ends
    manifest.json   the tokenizer's digest, and of each shard its sequences, tokens, checksum; written last

Where sequences come with rows of their own (``Entry``), each shard has three files more:

    00000.rows      the rows one after the other
    00000.places    int64, little-endian: where each row begins, and where the last one ends, in bytes
    00000.ids       uint64, little-endian: of each row

A folder without its manifest is no set of shards, so an interrupted writer leaves none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from megaent.durable import replace_file, sync
from megaent.errors import DataError

FORMAT = "megaent shards 1"
MANIFEST = "manifest.json"
SHARD_TOKENS = 1 << 26
_TYPES = {
    "tokens": np.dtype("<i4"),
    "index": np.dtype("<i8"),
    "rows": np.dtype("u1"),
    "places": np.dtype("<i8"),
    "ids": np.dtype("<u8"),
}
_PLAIN = ("tokens", "index")


class Entry(NamedTuple):
    """A sequence with what belongs to it."""

    tokens: Sequence[int]
    row: bytes
    id: int  # below 2**64


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    name: str
    sequences: int
    tokens: int
    sha256: str  # of its files, in the order in which the module names them
    longest: int = 0  # tokens of the longest sequence; 0 where it was not told
    row_bytes: int = 0

    @property
    def suffixes(self) -> tuple[str, ...]:
        return tuple(_TYPES) if self.row_bytes else _PLAIN

    def size(self, suffix: str) -> int:
        """Of one of its files, in bytes."""
        count = {"tokens": self.tokens, "rows": self.row_bytes, "ids": self.sequences}
        return _TYPES[suffix].itemsize * count.get(suffix, self.sequences + 1)


def write_shards(
    folder: Path,
    sequences: Iterable[Sequence[int] | Entry],
    *,
    tokenizer: str,
    shard_tokens: int = SHARD_TOKENS,
    about: Mapping[str, object] | None = None,
) -> list[Shard]:
    """All of ``sequences``, one at a time in memory; all of them entries, or none.

    ``about`` goes into the manifest as it is. Raises DataError for a folder that is taken.
    """
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} must be a new or an empty folder for shards; name another, or empty it")
    folder.mkdir(parents=True, exist_ok=True)
    entries, shards = _checked(sequences), []
    while (shard := _write_shard(folder, f"{len(shards):05d}", entries, shard_tokens)) is not None:
        shards.append(shard)
    if not shards:
        raise DataError(f"{folder} would hold no sequence; give at least one")
    manifest = {"format": FORMAT, "tokenizer": tokenizer, "shards": [asdict(shard) for shard in shards]}
    manifest |= {} if about is None else {"about": dict(about)}
    replace_file(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return shards


def _checked(sequences: Iterable[Sequence[int] | Entry]) -> Iterator[tuple[np.ndarray, Entry | None]]:
    for number, given in enumerate(sequences):
        entry = given if isinstance(given, Entry) else None
        array = np.asarray(given if entry is None else entry.tokens)
        if array.ndim != 1 or not array.size or array.min() < 0 or array.max() >= 1 << 31:
            raise DataError(f"sequence {number} must hold token ids from 0 to 2**31 - 1, got {given!r:.60}")
        yield array.astype(_TYPES["tokens"]), entry


def _write_shard(
    folder: Path, name: str, entries: Iterator[tuple[np.ndarray, Entry | None]], limit: int
) -> Shard | None:
    """Takes of ``entries`` until there are ``limit`` tokens; None where there are no more."""
    ends, places, ids = [0], [0], []
    with ExitStack() as stack:
        tokens, rows = (stack.enter_context((folder / f"{name}.{s}").open("wb")) for s in ("tokens", "rows"))
        for array, entry in entries:
            tokens.write(array.tobytes())
            ends.append(ends[-1] + len(array))
            if entry is not None:
                rows.write(entry.row)
                places.append(places[-1] + len(entry.row))
                ids.append(entry.id)
            if ends[-1] >= limit:
                break
    for suffix, column in (("index", ends), ("places", places), ("ids", ids)):
        np.array(column, dtype=_TYPES[suffix]).tofile(folder / f"{name}.{suffix}")
    lengths = np.diff(ends)
    shard = Shard(
        name=name,
        sequences=len(lengths),
        tokens=ends[-1],
        sha256="",
        longest=int(max(lengths, default=0)),
        row_bytes=places[-1],
    )
    return _kept(folder, shard)


def _kept(folder: Path, shard: Shard) -> Shard | None:
    """On the disk for good, with its checksum; what holds nothing goes."""
    wanted = shard.suffixes if shard.sequences else ()
    for suffix in _TYPES.keys() - set(wanted):
        (folder / f"{shard.name}.{suffix}").unlink()
    for suffix in wanted:
        sync(folder / f"{shard.name}.{suffix}")
    return replace(shard, sha256=_checksum(folder, shard)) if shard.sequences else None


def _checksum(folder: Path, shard: Shard) -> str:
    content = hashlib.sha256()
    for suffix in shard.suffixes:
        with (folder / f"{shard.name}.{suffix}").open("rb") as file:
            while block := file.read(1 << 24):
                content.update(block)
    return content.hexdigest()


class Shards:
    """The sequences of a folder by number, mapped and not loaded. Raises DataError for a damaged folder.

    With ``in_memory`` the files are read whole instead, each when something of it is first asked for.
    """

    def __init__(self, folder: Path, *, tokenizer: str = "", in_memory: bool = False) -> None:
        self.folder = folder
        self.manifest = _manifest(folder)
        self._in_memory = in_memory
        self._shards = [Shard(**shard) for shard in self.manifest["shards"]]
        if tokenizer and tokenizer != self.manifest["tokenizer"]:
            raise DataError(
                f"{folder} was made by another tokenizer ({self.manifest['tokenizer']:.12}, this is "
                f"{tokenizer:.12}); make the shards again"
            )
        self._ends = np.cumsum([shard.sequences for shard in self._shards])
        for shard in self._shards:
            self._require_sizes(shard)
        self._mapped = lru_cache(maxsize=None if in_memory else 8)(self._map)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def digest(self) -> str:
        """Of all that the manifest says, checksums of the tokens included."""
        return hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode()).hexdigest()

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence; 0 where a shard does not tell."""
        known = [shard.longest for shard in self._shards]
        return max(known) if all(known) else 0

    def sequence(self, number: int) -> np.ndarray:
        """int32 [length], a view of the file."""
        place, inside = self._place(number)
        tokens, index = self._mapped(place, "tokens"), self._mapped(place, "index")
        return tokens[index[inside] : index[inside + 1]]

    def row(self, number: int) -> bytes:
        """What was written beside the sequence; nothing where there was none."""
        place, inside = self._place(number)
        if not self._shards[place].row_bytes:
            return b""
        rows, places = self._mapped(place, "rows"), self._mapped(place, "places")
        return rows[places[inside] : places[inside + 1]].tobytes()

    def ids(self) -> np.ndarray:
        """uint64 [len], in memory; nothing where sequences came without rows."""
        files = [self.folder / f"{shard.name}.ids" for shard in self._shards if shard.row_bytes]
        return np.concatenate([np.empty(0, _TYPES["ids"]), *(np.fromfile(f, _TYPES["ids"]) for f in files)])

    def verify(self) -> None:
        """Reads everything. Raises DataError for the first shard that is not what was written."""
        for shard in self._shards:
            if _checksum(self.folder, shard) != shard.sha256:
                raise DataError(f"{self.folder / shard.name} is not what was written; make the shards again")

    def _place(self, number: int) -> tuple[int, int]:
        """Which shard holds the sequence, and where."""
        place = int(np.searchsorted(self._ends, number, side="right"))
        return place, number - (int(self._ends[place - 1]) if place else 0)

    def _map(self, place: int, suffix: str) -> np.ndarray:
        file = self.folder / f"{self._shards[place].name}.{suffix}"
        if self._in_memory:
            return np.fromfile(file, _TYPES[suffix])
        return np.memmap(file, dtype=_TYPES[suffix], mode="r")

    def _require_sizes(self, shard: Shard) -> None:
        for suffix in shard.suffixes:
            file, size = self.folder / f"{shard.name}.{suffix}", shard.size(suffix)
            found = file.stat().st_size if file.exists() else -1
            if found != size:
                raise DataError(
                    f"{file} must have {size} bytes, got {found if found >= 0 else 'no file'}; copy it again"
                )


def _manifest(folder: Path) -> dict:
    file = folder / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file} cannot be read ({error}); name a folder that write_shards has made"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{file} must say format {FORMAT!r}; make the shards again")
    return manifest
