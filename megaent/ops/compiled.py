"""Where the compiled ops lie, beside the package: a file for each interpreter, as each has its own torch."""

from __future__ import annotations

import sysconfig
from pathlib import Path

_SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")

COMPILED_OPS = Path(__file__).parents[1] / f"_C{_SUFFIX}"
"""What ``scripts/build_ops`` makes of ``csrc/cpu/``."""

COMPILED_CUDA_OPS = COMPILED_OPS.with_name(f"_CUDA{_SUFFIX}")
"""What ``scripts/build_cuda`` makes of ``csrc/cuda/``."""
