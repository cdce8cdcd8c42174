"""Both readers of shards side by side: sequences a second, processor time and memory.

    ./scripts/setup_dali
    PYTHONPATH=. .venv-dali/bin/python benchmarks/readers.py FOLDER OUT.json [MIB]

FOLDER is made if it is not there: random token ids, sequences of 64 to 1024, MIB (1024) in all. Each reader
runs in a process of its own, batches of 32, a window of 4096, after 20 batches that are not counted.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from megaent.shards.files import Shards, write_shards
from megaent.shards.readers import DaliReader, MappedReader, stream_over

BATCH, WINDOW, WARM, BATCHES = 32, 4096, 20, 1000
READERS = {"mapped": 0, "DALI, 1 thread": 1, "DALI, 4 threads": 4}


def main(folder: Path, out: Path, mib: int) -> None:
    if not folder.exists():
        write_shards(folder, drawn(mib << 18), tokenizer="none")
    size = sum(file.stat().st_size for file in folder.iterdir())
    rows = []
    for name in READERS:
        done = subprocess.run(
            [sys.executable, __file__, str(folder), name], capture_output=True, text=True, check=True
        )
        rows.append({"reader": name} | json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(
        json.dumps({"bytes": size, "batch": BATCH, "window": WINDOW, "rows": rows}, indent=1) + "\n"
    )


def drawn(tokens: int) -> Iterator[np.ndarray]:
    draw = np.random.default_rng(0)
    while tokens > 0:
        sequence = draw.integers(0, 50_000, draw.integers(64, 1025))
        tokens -= len(sequence)
        yield sequence


def measure(folder: Path, name: str) -> dict[str, float]:
    sets = [Shards(folder)]
    stream = stream_over(sets, seed=0, window=WINDOW)
    threads = READERS[name]
    reader = (
        DaliReader(sets, stream, batch=BATCH, threads=threads)
        if threads
        else MappedReader(sets, stream, batch=BATCH)
    )
    for _ in range(WARM):
        reader.read()
    cpu, wall = time.process_time(), time.monotonic()
    tokens = sum(int(reader.read().length.sum()) for _ in range(BATCHES))
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "sequences a CPU second": round(BATCH * BATCHES / cpu),
        "sequences a second": round(BATCH * BATCHES / wall),
        "tokens a CPU second": round(tokens / cpu),
        "peak MiB, pages of the files included": int(status["VmHWM"].split()[0]) >> 10,
        "of its own MiB": int(status["RssAnon"].split()[0]) >> 10,
    }


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[2] in READERS:
        print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2])))
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1024)
