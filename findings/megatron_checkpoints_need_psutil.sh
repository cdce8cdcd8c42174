#!/usr/bin/env bash
# megatron-core 0.16.1 with torch 2.13.0
#
# Behaviour: the writer of distributed checkpoints measures its memory with psutil, which megatron-core does not
#   require: not as a dependency and in none of its extras. Without it the package installs and imports, and the
#   function that measures raises. It is called in a writer process: in a run on 2026-11-28 the saving process
#   was still waiting for its dead writer after 70 s, when a time limit ended it. That is told here in words only.
# Seen on 2026-11-28:
#   requirements that name psutil: 0
#   measuring memory: RuntimeError: psutil is not installed, please install it with `pip install psutil`
# Hurts: whoever installs megatron-core into a small environment: the run stops at its first checkpoint, without an end.
# One would guess otherwise: a missing dependency shows when a package is imported, and an error ends a run.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

environment 3.11 torch==2.13.0 megatron-core==0.16.1 numpy==2.3.5 packaging==26.3
"$python" - <<'PY'
import sys
from importlib.metadata import requires

from megatron.core.dist_checkpointing.strategies import filesystem_async

required = [line for line in requires("megatron-core") if line.startswith("psutil")]
try:
    filesystem_async._process_memory()
    measured = "works"
except RuntimeError as error:
    measured = f"RuntimeError: {error}"
print(f"requirements that name psutil: {len(required)}")
print(f"measuring memory: {measured}")
sys.exit(0 if not required and measured != "works" else "no longer so")
PY
