#!/usr/bin/env bash
# nvidia-dali-cuda130 2.4.0, a pipeline on a CPU
#
# Behaviour: a checkpoint of a reader is not tied to the data that was read. A pipeline over other files, more or fewer,
#   takes it without an error or a warning and reads on from the saved place, modulo the number of files.
# Seen on 2026-11-28:
#   after three batches of two: [[6, 7], [8, 9]]
#   restored over the old data: [[6, 7], [8, 9]]
#   restored over the grown data: [[106, 107], [108, 109]]
#   restored over the shrunk data: [[202, 203], [200, 201]]
# Hurts: whoever resumes a run after files were added to or removed from the folder: from then on items are repeated
#   or left out, and no message says so.
# One would guess otherwise: what is restored is a place in an order of files, and the reader knows how many there are.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

environment 3.11 nvidia-dali-cuda130==2.4.0 numpy==2.3.5
"$python" - <<'PY'
import pathlib
import sys
import warnings

import numpy as np
from nvidia.dali import fn, pipeline_def

warnings.simplefilter("error")
for folder, first, count in (("old", 0, 12), ("grown", 100, 20), ("shrunk", 200, 4)):
    pathlib.Path(folder).mkdir()
    for item in range(count):
        np.save(f"{folder}/{item:02d}.npy", np.array([first + item], dtype=np.int32))


def reader(folder, checkpoint=None):
    @pipeline_def(batch_size=2, num_threads=1, device_id=None, enable_checkpointing=True, checkpoint=checkpoint)
    def read():
        return fn.readers.numpy(device="cpu", file_root=folder, file_filter="*.npy")

    pipeline = read()
    pipeline.build()
    return pipeline


def batches(pipeline, count):
    return [pipeline.run()[0].as_array().ravel().tolist() for _ in range(count)]


saved = reader("old")
batches(saved, 3)
checkpoint = saved.checkpoint()
seen = {folder: batches(reader(folder, checkpoint), 2) for folder in ("old", "grown", "shrunk")}
print("after three batches of two:", batches(saved, 2))
for folder, read_on in seen.items():
    print(f"restored over the {folder} data:", read_on)
expected = {"old": [6, 7], "grown": [106, 107], "shrunk": [202, 203]}
sys.exit(0 if {folder: read_on[0] for folder, read_on in seen.items()} == expected else "no longer so")
PY
