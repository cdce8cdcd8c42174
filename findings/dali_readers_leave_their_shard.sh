#!/usr/bin/env bash
# nvidia-dali-cuda130 2.4.0, a pipeline on a CPU
#
# Behaviour: a reader of shard k of n goes on into shard k + 1 when its epoch ends, unless `stick_to_shard=True` is
#   said. Which files make a shard under `random_shuffle=True` is a shuffle of its own, which no seed changes.
# Seen on 2026-11-28, three shards of ten files:
#   shard 0 reads 0 1 2 3 4 5 6 and, told to stick, 0 1 2 0 1 2 0
#   shard 1 reads 3 4 5 6 7 8 9 and, told to stick, 3 4 5 3 4 5 3
#   shard 2 reads 6 7 8 9 0 1 2 and, told to stick, 6 7 8 9 6 7 8
#   shuffled, seed 1: shards of [1, 5, 9] [2, 6, 7] [0, 3, 8]
#   shuffled, seed 2: shards of [1, 5, 9] [2, 6, 7] [0, 3, 8]
# Hurts: whoever gives each rank a shard so that ranks read disjoint data, resumes a rank at the start of "its" shard,
#   or runs another seed to get another split.
# One would guess otherwise: `shard_id` and `num_shards` read like a fixed part of the data, as with a distributed
#   sampler, and the ranks' first epoch is just that.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

environment 3.11 nvidia-dali-cuda130==2.4.0 numpy==2.3.5
"$python" - <<'PY'
import pathlib
import sys

import numpy as np
from nvidia.dali import fn, pipeline_def

ITEMS, SHARDS = 10, 3
pathlib.Path("data").mkdir()
for item in range(ITEMS):
    np.save(f"data/{item:02d}.npy", np.array([item], dtype=np.int32))


def read(shard, count, *, seed=1, **options):
    @pipeline_def(batch_size=1, num_threads=1, device_id=None, seed=seed)
    def pipeline():
        where = {"file_root": "data", "file_filter": "*.npy", "shard_id": shard, "num_shards": SHARDS}
        return fn.readers.numpy(device="cpu", **where, **options)

    built = pipeline()
    built.build()
    return [built.run()[0].as_array().item() for _ in range(count)]


for shard in range(SHARDS):
    print(f"shard {shard} reads", *read(shard, 7), "and, told to stick,", *read(shard, 7, stick_to_shard=True))
ranks = [read(shard, 7) for shard in range(SHARDS)]
shuffled = {"random_shuffle": True, "initial_fill": ITEMS, "stick_to_shard": True}
splits = [[sorted(read(shard, 3, seed=seed, **shuffled)) for shard in range(SHARDS)] for seed in (1, 2)]
for seed, split in enumerate(splits, start=1):
    print(f"shuffled, seed {seed}: shards of", *split)
leave = ranks[0] == list(range(7))
sys.exit(0 if leave and splits[0] == splits[1] else "no longer so")
PY
