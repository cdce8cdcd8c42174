#!/usr/bin/env bash
# megatron-core 0.19.2 with torch 2.13.0
#
# Behaviour: the groups that `parallel_state.initialize_model_parallel` makes wait 30 minutes for a peer, whatever timeout
#   the process group was initialised with. `distributed_timeout_minutes` is another argument, and may be a fraction.
# Seen on 2026-11-28:
#   init_process_group(timeout=20 s), the default group: 20 s
#   a group of torch.distributed.new_group: 20 s
#   data, tensor and model parallel groups of Megatron: 1800 s
#   the same with distributed_timeout_minutes=1/3: 20 s
# Hurts: whoever sets a short limit, so that a run over several nodes ends when one of them is gone: collectives of the
#   default group end in time, gradients and everything else in Megatron's groups wait for half an hour.
# One would guess otherwise: a group made by `torch.distributed.new_group` takes the default group's timeout over.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

environment 3.12 torch==2.13.0 megatron-core==0.19.2 numpy==2.3.5 packaging==26.3
"$python" -W ignore - <<'PY'
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from megatron.core import parallel_state

LIMIT_S = 20
store = dist.HashStore()
dist.init_process_group("gloo", store=store, rank=0, world_size=1, timeout=timedelta(seconds=LIMIT_S))


def timeout_s(group):
    return group._get_backend(torch.device("cpu")).options._timeout.total_seconds()


def megatron(**options):
    parallel_state.initialize_model_parallel(**options)
    groups = (
        parallel_state.get_data_parallel_group(),
        parallel_state.get_tensor_model_parallel_group(),
        parallel_state.get_model_parallel_group(),
    )
    found = {timeout_s(group) for group in groups}
    parallel_state.destroy_model_parallel()
    return found


default, new = timeout_s(dist.group.WORLD), timeout_s(dist.new_group([0]))
plain, asked = megatron(), megatron(distributed_timeout_minutes=LIMIT_S / 60)
print(f"init_process_group(timeout={LIMIT_S} s), the default group: {default:g} s")
print(f"a group of torch.distributed.new_group: {new:g} s")
print(f"data, tensor and model parallel groups of Megatron: {max(plain):g} s")
print(f"the same with distributed_timeout_minutes=1/3: {max(asked):g} s")
sys.exit(0 if (default, new, plain, asked) == (LIMIT_S, LIMIT_S, {1800.0}, {float(LIMIT_S)}) else "no longer so")
PY
