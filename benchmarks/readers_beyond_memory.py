"""A set of shards larger than memory, read whole under a limit of memory: by both readers, and loaded.

    ./scripts/setup_dali
    PYTHONPATH=. .venv-dali/bin/python benchmarks/readers_beyond_memory.py FOLDER OUT.json [GB] [LIMIT_GB]

FOLDER is made, sparse, and removed again: GB (20) of tokens, in sequences of 4096. Each reader takes every
sequence once, in batches of 64, with a window of 4096, in a process of its own whose memory is held to
LIMIT_GB (2) by RLIMIT_DATA. That is what it allocates; pages of mapped files are the kernel's, which takes
them back when it needs them, so they are told apart, at their peak.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from megaent.shards.files import FORMAT, MANIFEST, Shards
from megaent.shards.readers import DaliReader, MappedReader, stream_over

BATCH, WINDOW, LENGTH, SHARD_TOKENS = 64, 4096, 4096, 1 << 26
READERS = ("mapped", "DALI, 1 thread", "in memory")


def main(folder: Path, out: Path, gigabytes: float, limit: float) -> None:
    make_sparse(folder, round(gigabytes * 1e9 / 4 / SHARD_TOKENS))
    try:
        size = sum(file.stat().st_size for file in folder.iterdir())
        rows = [measure_apart(folder, name, limit) for name in READERS]
    finally:
        shutil.rmtree(folder)
    told = {"bytes": size, "limit_bytes": round(limit * 1e9), "batch": BATCH, "window": WINDOW, "rows": rows}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(told, indent=1) + "\n")


def make_sparse(folder: Path, shards: int) -> None:
    """Of zeros that take no place on the disk; the manifest has no checksums."""
    folder.mkdir(parents=True)
    ends = np.arange(0, SHARD_TOKENS + 1, LENGTH, dtype="<i8")
    told = []
    for number in range(shards):
        with (folder / f"{number:05d}.tokens").open("wb") as file:
            file.truncate(4 * SHARD_TOKENS)
        ends.tofile(folder / f"{number:05d}.index")
        told.append(
            {"name": f"{number:05d}", "sequences": len(ends) - 1, "tokens": SHARD_TOKENS, "sha256": ""}
        )
    manifest = {"format": FORMAT, "tokenizer": "none", "shards": told}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def measure_apart(folder: Path, name: str, limit: float) -> dict[str, object]:
    command = [sys.executable, __file__, "--one", str(folder), name, str(limit)]
    done = subprocess.run(command, capture_output=True, text=True)
    told = done.stdout if done.returncode == 0 else json.dumps({"failed": done.stderr.splitlines()[-1]})
    row = {"reader": name} | json.loads(told.splitlines()[-1])
    print(row, flush=True)
    return row


def measure(folder: Path, name: str, limit: float) -> dict[str, object]:
    resource.setrlimit(resource.RLIMIT_DATA, (round(limit * 1e9), round(limit * 1e9)))
    sets = [Shards(folder, in_memory=name == "in memory")]
    reader_of = DaliReader if name.startswith("DALI") else MappedReader
    reader = reader_of(sets, stream_over(sets, seed=0, window=WINDOW), batch=BATCH)
    cpu, wall = time.process_time(), time.monotonic()
    own, tokens = 0, 0
    for read in batches(reader, len(sets[0]) // BATCH):
        tokens += read
        own = max(own, status("RssAnon"))
    return {
        "tokens": tokens,
        "tokens a CPU second": round(tokens / (time.process_time() - cpu)),
        "tokens a second": round(tokens / (time.monotonic() - wall)),
        "of its own, peak MiB": own >> 10,
        "with mapped pages, peak MiB": status("VmHWM") >> 10,
    }


def batches(reader: MappedReader | DaliReader, count: int) -> Iterator[int]:
    for _ in range(count):
        yield int(reader.read().length.sum())


def status(name: str) -> int:
    """KiB"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        print(json.dumps(measure(Path(sys.argv[2]), sys.argv[3], float(sys.argv[4]))))
    else:
        sizes = [float(word) for word in sys.argv[3:]]
        main(Path(sys.argv[1]), Path(sys.argv[2]), *sizes, *(20.0, 2.0)[len(sizes) :])
