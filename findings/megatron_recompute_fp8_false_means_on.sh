#!/usr/bin/env bash
# megatron-core 0.19.2 with torch 2.13.0, without Transformer Engine
#
# Behaviour: `CheckpointWithoutOutput(fp8=False)`, which is also its default, switches FP8's recomputation on: what is
#   kept is `fp8 is not None`. Its forward pass then asks Transformer Engine's state, a name that does not exist where
#   that is not installed. Only `fp8=None` switches it off.
# Seen on 2026-11-28:
#   fp8=False: keeps True, NameError: name 'FP8GlobalStateManager' is not defined
#   the default: keeps True, NameError: name 'FP8GlobalStateManager' is not defined
#   fp8=None: keeps False, ran
# Hurts: whoever recomputes norms or the activations of experts (`recompute_modules=["layernorm"]`, `["moe_act"]`) with
#   the local implementation: the configuration is taken, and the first forward pass fails by a name that is not theirs.
#   With Transformer Engine the wrong branch is taken and costs nothing that shows.
# One would guess otherwise: the argument is a flag by its default, and False means off.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

environment 3.12 torch==2.13.0 megatron-core==0.19.2 numpy==2.3.5 packaging==26.3
"$python" - <<'PY' 2>warnings.txt || failed=yes
import sys

import torch
from megatron.core.tensor_parallel.random import CheckpointWithoutOutput, CheckpointWithoutOutputFunction

# What `checkpoint` calls once it has noted CUDA's random states, which takes a GPU.
seen = {}
for said, arguments in (("fp8=False", {"fp8": False}), ("the default", {}), ("fp8=None", {"fp8": None})):
    checkpoint = CheckpointWithoutOutput(**arguments)
    try:
        CheckpointWithoutOutputFunction.apply(torch.sin, checkpoint, torch.ones(3, requires_grad=True))
        outcome = "ran"
    except NameError as error:
        outcome = f"NameError: {error}"
    print(f"{said}: keeps {checkpoint.fp8}, {outcome}")
    seen[said] = (checkpoint.fp8, outcome.split(":")[0])
wrong = (True, "NameError")
as_told = {"fp8=False": wrong, "the default": wrong, "fp8=None": (False, "ran")}
sys.exit(0 if seen == as_told else "no longer so")
PY
cat warnings.txt >&2
[[ -z ${failed:-} ]]
