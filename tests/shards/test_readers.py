"""Both readers give the same batches to the bit: any threads, after a kill, under another number of leaders.

DALI runs in an environment of its own, so its batches come from a process there.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from megaent.shards.files import Shards, write_shards
from megaent.shards.readers import DaliReader, MappedReader, stream_over

PROGRAM = """
import json, os, sys
from pathlib import Path
import numpy as np
from megaent.shards.files import Shards
from megaent.shards.readers import DaliReader, stream_over

job = json.loads(sys.argv[1])
sets = [Shards(Path(folder)) for folder in job["folders"]]
who = {"leader": job["leader"], "leaders": job["leaders"]}
stream = stream_over(sets, seed=5, window=16, weights=(2.0, 1.0), **who)
batch, packed = 6 * job["leaders"], job["packed"]
reader = DaliReader(sets, stream, batch=batch, pad=-1, packed=packed, threads=job["threads"])
if job["state"]:
    reader.restore(job["state"])
for number in range(job["batches"]):
    batch = reader.read()
    tokens = np.from_dlpack(batch.tokens)
    print(json.dumps([tokens.tolist(), batch.length.tolist(), reader.state]), flush=True)
if job["is_killed"]:
    os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[Shards]:
    folder, draw = tmp_path_factory.mktemp("shards"), np.random.default_rng(1)
    for name, count in (("a", 100), ("b", 37)):
        drawn = (draw.integers(0, 50_000, draw.integers(1, 30)) for _ in range(count))
        write_shards(folder / name, drawn, tokenizer="t", shard_tokens=200)
    return [Shards(folder / "a"), Shards(folder / "b")]


def mapped(
    sets: list[Shards],
    batches: int,
    *,
    leader: int = 0,
    leaders: int = 1,
    state: object = None,
    packed: bool = False,
) -> list:
    stream = stream_over(sets, seed=5, window=16, weights=(2.0, 1.0), leader=leader, leaders=leaders)
    reader = MappedReader(sets, stream, batch=6 * leaders, pad=-1, packed=packed)
    if state:
        reader.restore(state)  # type: ignore[arg-type]
    read = []
    for _ in range(batches):
        batch = reader.read()
        read.append([batch.tokens.tolist(), batch.length.tolist(), json.loads(json.dumps(reader.state))])
    return read


def test_batches_are_padded_rows_of_the_files(sets: list[Shards]) -> None:
    stream = stream_over(sets, seed=0, window=4)
    places = stream_over(sets, seed=0, window=4).take(5)
    batch = MappedReader(sets, stream, batch=5, pad=-1).read()
    assert batch.tokens.dtype == np.int32
    assert batch.tokens.shape == (5, batch.length.max())
    for row, place in zip(batch.tokens, places, strict=True):
        expected = sets[place.source].sequence(place.number)
        assert row[: len(expected)].tolist() == expected.tolist()
        assert (row[len(expected) :] == -1).all()
    assert np.shares_memory(np.from_dlpack(batch.tokens), batch.tokens)


def test_a_packed_batch_is_its_sequences_end_to_end(sets: list[Shards]) -> None:
    places = stream_over(sets, seed=0, window=4).take(5)
    batch = MappedReader(sets, stream_over(sets, seed=0, window=4), batch=5, packed=True).read()
    expected = [sets[place.source].sequence(place.number) for place in places]
    assert batch.tokens.tolist() == [token for sequence in expected for token in sequence]
    assert batch.length.tolist() == [len(sequence) for sequence in expected]
    assert batch.places == places
    assert np.shares_memory(np.from_dlpack(batch.tokens), batch.tokens)


# ---------------------------------------------------------------- DALI


def dali(repository: Path, sets: list[Shards], batches: int, **job: object) -> list:
    python = repository / ".venv-dali" / "bin" / "python"
    if not python.exists():
        pytest.skip("NVIDIA DALI is missing: `./scripts/setup_dali`")
    job = {"leader": 0, "leaders": 1, "threads": 1, "state": None, "packed": False, "is_killed": False} | job
    job |= {"folders": [str(each.folder) for each in sets], "batches": batches}
    done = subprocess.run(
        [str(python), "-c", PROGRAM, json.dumps(job)],
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == (-signal.SIGKILL if job["is_killed"] else 0), done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.full
@pytest.mark.parametrize("threads", [1, 4])
def test_both_readers_give_the_same_batches(repository: Path, sets: list[Shards], threads: int) -> None:
    """Over three epochs of the smaller set; states too, though DALI reads ahead."""
    assert dali(repository, sets, 60, threads=threads) == mapped(sets, 60)


@pytest.mark.full
def test_packed_batches_are_the_same_too(repository: Path, sets: list[Shards]) -> None:
    assert dali(repository, sets, 20, packed=True) == mapped(sets, 20, packed=True)


@pytest.mark.full
def test_a_killed_reader_goes_on_as_the_other_and_under_other_leaders(
    repository: Path, sets: list[Shards]
) -> None:
    whole = mapped(sets, 20)
    killed = dali(repository, sets, 7, is_killed=True)
    assert killed == whole[:7]
    assert mapped(sets, 13, state=killed[-1][2]) == whole[7:]
    assert dali(repository, sets, 13, state=whole[6][2], threads=4) == whole[7:]
    for leader in (0, 1):
        state = killed[-1][2]
        ours = mapped(sets, 5, leader=leader, leaders=2, state=state)
        assert dali(repository, sets, 5, leader=leader, leaders=2, state=state) == ours


def test_without_dali_the_error_says_how_to_get_it(
    sets: list[Shards], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    from megaent.errors import MissingDependency

    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    reader = DaliReader(sets, stream_over(sets, seed=0, window=4), batch=2)
    with pytest.raises(MissingDependency, match=r"\./scripts/setup_dali"):
        reader.read()
