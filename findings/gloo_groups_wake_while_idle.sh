#!/usr/bin/env bash
# torch 2.13.0, gloo on a CPU
#
# Behaviour: every gloo process group, one of a single rank too, has a thread that wakes about a hundred times a second
#   whether there is anything to do or not.
# Seen on 2026-11-28:
#   25 groups of one rank: 25 threads, each wakes 99 to 99 times a second
# Hurts: CPU runs and tests of several ranks on few cores. Megatron-core lays two dozen groups in a process, over the same
#   few ranks; eight processes then wake twenty thousand times a second beside their work. Groups over equal ranks can be
#   one group under gloo.
# One would guess otherwise: a group that waits on sockets need not wake without traffic, and one of a single rank has none.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

environment 3.11 torch==2.13.0 numpy==2.3.5
"$python" - <<'PY'
import sys
import time
from pathlib import Path

import torch.distributed as dist

GROUPS, SECONDS = 24, 3


def wakes() -> dict[str, int]:
    """Voluntary switches of gloo's own threads so far."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().startswith("gloo"):
            [line] = [x for x in (task / "status").read_text().splitlines() if x.startswith("voluntary")]
            found[task.name] = int(line.split()[1])
    return found


dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
groups = [dist.new_group([0]) for _ in range(GROUPS)]
time.sleep(1)
before = wakes()
time.sleep(SECONDS)
after = wakes()
rates = [(after[task] - before[task]) / SECONDS for task in before]
print(f"{GROUPS + 1} groups of one rank: {len(rates)} threads, each wakes {min(rates):.0f} to {max(rates):.0f} times a second")
sys.exit(0 if len(rates) >= GROUPS and min(rates) > 30 else "no longer so")
PY
