"""Two processes gather from each other, a large tensor and a small one; the first prints how fast.

torchrun --nproc-per-node=2 -m megaent.actor.exchange_rate
"""

from __future__ import annotations

import json
import time
from statistics import median

import torch
import torch.distributed as dist

_ROUNDS = 15


def seconds_of(num_bytes: int) -> float:
    """Of an all-gather after which each of both holds ``num_bytes``."""
    mine = torch.ones(num_bytes // 8)
    whole = [torch.empty_like(mine) for _ in range(2)]
    times = []
    for _ in range(_ROUNDS):
        dist.barrier()
        begun = time.perf_counter()
        dist.all_gather(whole, mine)
        times.append(time.perf_counter() - begun)
    return median(times)


def main() -> None:
    dist.init_process_group("gloo")
    large = 32 * 2**20
    latency, long = seconds_of(1024), seconds_of(large)
    if dist.get_rank() == 0:
        rate = large / 2 / max(long - latency, 1e-9)
        print(json.dumps({"bytes_per_s": rate, "latency_s": latency}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
