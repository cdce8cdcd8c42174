"""Shards hold what was written, in any number of files, and say so when they do not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from megaent.errors import DataError
from megaent.shards.files import Shards, write_shards

SEQUENCES = [list(range(n, 2 * n + 1)) for n in range(1, 40)]


@pytest.mark.parametrize("shard_tokens", [1, 50, 10_000])
def test_sequences_come_back(tmp_path: Path, shard_tokens: int) -> None:
    written = write_shards(tmp_path / "s", iter(SEQUENCES), tokenizer="t", shard_tokens=shard_tokens)
    shards = Shards(tmp_path / "s", tokenizer="t")
    shards.verify()
    assert len(shards) == len(SEQUENCES) == sum(shard.sequences for shard in written)
    assert [shards.sequence(n).tolist() for n in range(len(shards))] == SEQUENCES
    flat = np.concatenate([np.fromfile(f, "<i4") for f in sorted((tmp_path / "s").glob("*.tokens"))])
    assert flat.tolist() == [token for sequence in SEQUENCES for token in sequence]


def test_one_shard_at_a_time_is_held(tmp_path: Path) -> None:
    """The writer asks for the next sequence only after a full shard is on the disk."""

    def sequences():
        for number in range(6):
            yield [number] * 10
            if number >= 2:
                assert (tmp_path / "s" / f"{number // 2 - 1:05d}.tokens").exists()

    assert len(write_shards(tmp_path / "s", sequences(), tokenizer="t", shard_tokens=20)) == 3


def test_an_interrupted_writer_leaves_no_set(tmp_path: Path) -> None:
    def broken():
        yield [1, 2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(tmp_path / "s", broken(), tokenizer="t", shard_tokens=1)
    with pytest.raises(DataError, match=r"manifest\.json cannot be read"):
        Shards(tmp_path / "s")
    with pytest.raises(DataError, match="must be a new or an empty folder"):
        write_shards(tmp_path / "s", [[1]], tokenizer="t")


@pytest.mark.parametrize("odd", [[], [-1], [1 << 31], [[1]]])
def test_a_sequence_must_be_token_ids(tmp_path: Path, odd: list) -> None:
    with pytest.raises(DataError, match="sequence 1 must hold token ids"):
        write_shards(tmp_path / "s", [[1], odd], tokenizer="t")


def test_damage_and_strangers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no sequence"):
        write_shards(tmp_path / "none", [], tokenizer="t")
    folder = tmp_path / "s"
    write_shards(folder, SEQUENCES, tokenizer="t" * 20)
    with pytest.raises(DataError, match="made by another tokenizer"):
        Shards(folder, tokenizer="u")
    tokens = folder / "00000.tokens"
    content = tokens.read_bytes()
    tokens.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(DataError, match="is not what was written"):
        Shards(folder).verify()
    tokens.write_bytes(content[:-4])
    with pytest.raises(DataError, match=r"00000\.tokens must have \d+ bytes, got \d+"):
        Shards(folder)
    tokens.unlink()
    with pytest.raises(DataError, match="got no file"):
        Shards(folder)
    (folder / "manifest.json").write_text(json.dumps({"format": "megaent shards 2"}))
    with pytest.raises(DataError, match="must say format"):
        Shards(folder)
