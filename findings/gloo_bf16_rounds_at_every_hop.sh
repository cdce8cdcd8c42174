#!/usr/bin/env bash
# torch 2.13.0, gloo on a CPU
#
# Behaviour: an all-reduce of bf16 errs more than rounding the exact sum once, and the more so the more ranks there
#   are: as if every rank that a partial sum passes rounded it to bf16.
# Seen on 2026-11-28:
#   2 ranks: mean error 0.00148 by all_reduce, 0.00148 by torch.sum, 0.00148 rounding once: 1.00 times
#   4 ranks: mean error 0.00359 by all_reduce, 0.00220 by torch.sum, 0.00220 rounding once: 1.63 times
#   8 ranks: mean error 0.00728 by all_reduce, 0.00316 by torch.sum, 0.00316 rounding once: 2.31 times
# Hurts: whoever reduces gradients or metrics in bf16 on a CPU, and whoever takes such a run for the reference of one on
#   a fleet: a layout with more replicas is a less exact one.
# One would guess otherwise: torch's own sum of bf16 numbers adds in fp32 and rounds once.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

environment 3.11 torch==2.13.0 numpy==2.3.5
cat >reduce.py <<'PY'
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

LENGTH = 65536


def rank(index, size, store, errors):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=index, world_size=size)
    own = torch.randn(LENGTH, generator=torch.Generator().manual_seed(index)).bfloat16()
    everyone = [torch.empty_like(own) for _ in range(size)]
    dist.all_gather(everyone, own)
    exact = torch.stack(everyone).double().sum(0)
    dist.all_reduce(own)
    if index == 0:
        locally = torch.stack(everyone).sum(0)
        for place, rounded in enumerate((own, locally, exact.bfloat16())):
            errors[place] = (rounded.double() - exact).abs().mean()
    dist.destroy_process_group()


if __name__ == "__main__":
    ratios = {}
    for size in (2, 4, 8):
        errors = torch.zeros(3, dtype=torch.float64).share_memory_()
        mp.start_processes(rank, (size, f"{sys.argv[1]}/store{size}", errors), nprocs=size, start_method="fork")
        reduced, summed, once = errors.tolist()
        ratios[size] = reduced / once
        print(
            f"{size} ranks: mean error {reduced:.5f} by all_reduce, {summed:.5f} by torch.sum, "
            f"{once:.5f} rounding once: {ratios[size]:.2f} times"
        )
    sys.exit(0 if ratios[2] < 1.01 and ratios[4] > 1.3 and ratios[8] > 1.8 else "no longer so")
PY
OMP_NUM_THREADS=1 "$python" reduce.py "$folder"
