#!/usr/bin/env bash
# megatron-core 0.16.1 with torch 2.13.0, without Transformer Engine
#
# Behaviour: `TransformerConfig(fp8=...)` is accepted where Transformer Engine is missing, for formats and recipes that
#   do not exist too, and has no effect: the context that should switch FP8 on is a null context.
# Seen on 2026-11-28:
#   fp8=hybrid fp8_recipe=delayed: accepted, runs under nullcontext
#   fp8=hybrid fp8_recipe=tensorwise: accepted, runs under nullcontext
#   fp8=e9m9 fp8_recipe=no such recipe: accepted, runs under nullcontext
#   fp8_param without fp8: ValueError
# Hurts: whoever reports the speed or the accuracy of a training in FP8 from a machine whose Transformer Engine failed
#   to install: it was bf16. Warnings at import say that Transformer Engine is missing and what optimizers fall back
#   to; none names FP8, and the configuration keeps saying fp8.
# One would guess otherwise: the same class refuses other combinations, such as `fp8_param` without `fp8`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

environment 3.11 torch==2.13.0 megatron-core==0.16.1 numpy==2.3.5 packaging==26.3
"$python" - <<'PY' 2>warnings.txt || failed=yes
import sys

import torch
from megatron.core.fp8_utils import get_fp8_context
from megatron.core.transformer import TransformerConfig


def configure(**precision):
    shape = {"num_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "use_cpu_initialization": True}
    return TransformerConfig(**shape, bf16=True, params_dtype=torch.bfloat16, **precision)


contexts = set()
for fp8, recipe in (("hybrid", "delayed"), ("hybrid", "tensorwise"), ("e9m9", "no such recipe")):
    config = configure(fp8=fp8, fp8_recipe=recipe)
    contexts.add(type(get_fp8_context(config)).__name__)
    print(f"fp8={fp8} fp8_recipe={recipe}: accepted, runs under {', '.join(contexts)}")
try:
    configure(fp8_param=True)
    refused = "accepted"
except Exception as error:
    refused = type(error).__name__
print("fp8_param without fp8:", refused)
sys.exit(0 if contexts == {"nullcontext"} else "no longer so")
PY
cat warnings.txt >&2
[[ -z ${failed:-} ]]
if grep -i fp8 warnings.txt; then
    echo "no longer so: it is said"
    exit 1
fi
