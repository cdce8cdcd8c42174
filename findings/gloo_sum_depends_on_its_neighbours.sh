#!/usr/bin/env bash
# torch 2.13.0, gloo on a CPU
#
# Behaviour: the fp32 sum that an all-reduce gives for an element depends, in its last bits, on how long the buffer is
#   that the element lies in. Presumably the piece of the ring that an element falls into decides on which rank its sum
#   starts, and so in which order the same numbers are added. Two ranks have only one order.
# Seen on 2026-11-28:
#   2 ranks: 0 of 1024 sums have other bits beside 3072 more elements
#   4 ranks: 315 of 1024 sums have other bits beside 3072 more elements
#   8 ranks: 543 of 1024 sums have other bits beside 3072 more elements
# Hurts: whoever compares bits between two layouts: another bucket size, a parameter added to a model, gradients
#   reduced together or one by one. A rerun of the same layout gives the same bits, which hides it.
# One would guess otherwise: an all-reduce is a sum element by element, and what lies beside an element has no part in
#   its formula.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

environment 3.11 torch==2.13.0 numpy==2.3.5
cat >reduce.py <<'PY'
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

LENGTH, PART = 4096, 1024


def rank(index, size, store, differing):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=index, world_size=size)
    whole = torch.randn(LENGTH, generator=torch.Generator().manual_seed(index))
    part, again = whole[:PART].clone(), whole.clone()
    for buffer in (whole, part, again):
        dist.all_reduce(buffer)
    assert torch.equal(whole, again), "the same buffer gives the same bits"
    differing[index] = (part != whole[:PART]).sum()
    dist.destroy_process_group()


if __name__ == "__main__":
    counts = {}
    for size in (2, 4, 8):
        differing = torch.zeros(size, dtype=torch.int64).share_memory_()
        mp.start_processes(rank, (size, f"{sys.argv[1]}/store{size}", differing), nprocs=size, start_method="fork")
        counts[size] = differing[0].item()
        print(f"{size} ranks: {counts[size]} of {PART} sums have other bits beside {LENGTH - PART} more elements")
    sys.exit(0 if counts[2] == 0 < min(counts[4], counts[8]) else "no longer so")
PY
OMP_NUM_THREADS=1 "$python" reduce.py "$folder"
