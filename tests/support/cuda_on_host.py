"""The CUDA kernels' own source, compiled for this processor: ``torch.ops.megaent_cuda_on_host``.

``tests/ops/cuda_on_host`` speaks the part of CUDA that the kernels use, with exponentials as inexact as a
GPU's may be.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "csrc" / "cuda"
COMPILER = next(filter(None, map(shutil.which, ("c++", "g++"))), None)
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
NUMBERS = [0, 1, 4, 5]  # where log_prob, entropy, sum p^2 and varentropy stand in the statistics

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler is here; run `apt install g++`")


@functools.cache
def ops() -> Any:
    """Built at the first call; a library that is loaded needs its file no more."""
    torch_folder, shim = Path(torch.__file__).parent, ROOT / "tests" / "ops" / "cuda_on_host"
    words = ["-std=c++20", "-O2", "-fPIC", "-shared", "-ffp-contract=off", "-fno-strict-aliasing"]
    words += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-fvisibility=hidden", "-Wl,-Bsymbolic"]
    words += ["-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020b000000000000", f"-I{shim}", f"-I{SOURCES}"]
    words += ["-isystem", f"{torch_folder / 'include'}", "-x", "c++", f"{SOURCES / 'logits_stats.cu'}"]
    words += [f"{shim / 'register.cpp'}", f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-o"]
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "on_host.so"
        command = [str(COMPILER), *words, str(built)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        torch.ops.load_library(built)
    return torch.ops.megaent_cuda_on_host


def random_case(rng: torch.Generator, num_tokens: int, vocab: int, dtype: torch.dtype = torch.float32):
    logits = (3 * torch.randn(num_tokens, vocab, generator=rng, dtype=torch.float64)).to(dtype)
    target = torch.randint(vocab, (num_tokens,), generator=rng)
    return logits, target, torch.randn(2, num_tokens, generator=rng, dtype=torch.float64)


def partial(logits: Tensor, target: Tensor, temperature: float = 1.0, start: int = 0) -> Tensor:
    return ops().logits_stats(logits, target, start, 1 / temperature, True)


def whole(parts: Sequence[Tensor], temperature: float = 1.0) -> Tensor:
    return ops().stats_combine(list(parts), 1 / temperature)


def gradient(
    logits: Tensor,
    target: Tensor,
    stats: Tensor,
    cotangents: Sequence[Tensor | None],
    temperature: float = 1.0,
    out: Tensor | None = None,
    start: int = 0,
) -> Tensor:
    g, h = (None if c is None else c.float() for c in cotangents)
    result = torch.full_like(logits, torch.nan) if out is None else out
    ops().logits_stats_backward(logits, target, stats, g, h, start, 1 / temperature, out=result)
    return result


def everything(logits: Tensor, target: Tensor, cotangents: Tensor, temperature: float = 1.0) -> list[Tensor]:
    part = partial(logits, target, temperature)
    stats = whole([part], temperature)
    return [part, stats, gradient(logits, target, stats, list(cotangents), temperature)]
