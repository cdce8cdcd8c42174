"""The instruction levels of the C++ ops that this processor has; one that it lacks is refused."""

from __future__ import annotations

import torch

_CAPABILITY = torch.backends.cpu.get_cpu_capability()
_WITH_AVX2 = ["avx2"] if _CAPABILITY in ("AVX2", "AVX512") else []
_WITH_AVX512 = ["avx512"] if _CAPABILITY == "AVX512" else []

LEVELS = ["scalar", *_WITH_AVX2, *_WITH_AVX512]
"""The lowest first."""
