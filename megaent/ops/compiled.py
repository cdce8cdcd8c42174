"""Where the compiled ops lie, beside the package."""

from __future__ import annotations

from pathlib import Path

COMPILED_OPS = Path(__file__).parents[1] / "_C.so"
"""What ``scripts/build_ops`` makes of ``csrc/cpu/``."""

COMPILED_CUDA_OPS = COMPILED_OPS.with_name("_CUDA.so")
"""What ``scripts/build_cuda`` makes of ``csrc/cuda/``."""
