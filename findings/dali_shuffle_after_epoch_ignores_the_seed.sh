#!/usr/bin/env bash
# nvidia-dali-cuda130 2.4.0, a pipeline on a CPU
#
# Behaviour: `shuffle_after_epoch=True` of a reader gives every epoch an order of its own, and the same orders whatever
#   the pipeline's seed is. `random_shuffle=True` follows the seed.
# Seen on 2026-11-28:
#   shuffle_after_epoch: seed 1 reads 9 6 0 5 4 2 8 1 7 3 11 10 | 7 1 4 10 8 6 0 2 3 9 11 5
#   shuffle_after_epoch: seed 2 reads 9 6 0 5 4 2 8 1 7 3 11 10 | 7 1 4 10 8 6 0 2 3 9 11 5
#   random_shuffle: seed 1 reads 6 0 11 7 2 4 3 9 10 8 1 5 | 3 8 5 7 11 1 6 2 10 0 9 4
#   random_shuffle: seed 2 reads 1 2 4 11 0 3 9 7 8 5 6 10 | 0 11 8 1 3 10 6 7 2 4 5 9
# Hurts: whoever runs several seeds to see how much a result varies: the order of the data never did.
# One would guess otherwise: both options are called a shuffle, the epochs do differ, and the pipeline takes a seed.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

environment 3.11 nvidia-dali-cuda130==2.4.0 numpy==2.3.5
"$python" - <<'PY'
import pathlib
import sys

import numpy as np
from nvidia.dali import fn, pipeline_def

ITEMS = 12
for item in range(ITEMS):
    pathlib.Path("data").mkdir(exist_ok=True)
    np.save(f"data/{item:02d}.npy", np.array([item], dtype=np.int32))


def two_epochs(seed, **shuffle):
    @pipeline_def(batch_size=ITEMS, num_threads=1, device_id=None, seed=seed)
    def read():
        return fn.readers.numpy(device="cpu", file_root="data", file_filter="*.npy", **shuffle)

    pipeline = read()
    pipeline.build()
    return [pipeline.run()[0].as_array().ravel().tolist() for _ in range(2)]


orders = {}
for shuffle in ({"shuffle_after_epoch": True}, {"random_shuffle": True, "initial_fill": ITEMS}):
    name = next(iter(shuffle))
    orders[name] = [two_epochs(seed, **shuffle) for seed in (1, 2)]
    for seed, epochs in enumerate(orders[name], start=1):
        print(f"{name}: seed {seed} reads", " | ".join(" ".join(map(str, epoch)) for epoch in epochs))
first, second = orders["shuffle_after_epoch"]
apart = orders["random_shuffle"]
sys.exit(0 if first == second and first[0] != first[1] and apart[0] != apart[1] else "no longer so")
PY
