"""``scripts/build_cuda`` from end to end, and ``megaent.ops.cuda`` on what it built, without a card.

A torch without CUDA is dressed up for the script: its version names CUDA, and a stand-in for its CUDA library
answers the one call that the ops make to it. No kernel runs: tensors have no memory.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
FETCHED = ROOT / ".nvcc" / "nvidia" / "cu13" / "bin" / "nvcc"

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        shutil.which("nvcc") is None and not FETCHED.exists(),
        reason="no CUDA compiler is here; run `./scripts/setup_nvcc`",
    ),
]

PROGRAM = """
import torch
from megaent.ops.backend import available_backends, get_backend

assert "cuda" in available_backends()
backend = get_backend("cuda", "cuda", torch.bfloat16)
assert backend.__name__ == "megaent.ops.cuda"
logits = torch.empty(6, 5000, dtype=torch.bfloat16, device="meta")
target = torch.empty(6, dtype=torch.int64, device="meta")
partial = backend.logits_stats(logits, target, vocab_start=0, inv_temperature=1.0, moments=True)
assert partial.shape == (7, 6) and partial.dtype == torch.float32
stats = backend.stats_combine([partial, partial], inv_temperature=1.0)
assert stats.shape == (6, 6)
given = {"grad_log_prob_N": stats[0], "grad_entropy_N": None, "vocab_start": 0, "inv_temperature": 1.0}
dz = backend.logits_stats_backward(logits, target, stats, **given)
assert dz.shape == logits.shape and dz.dtype == logits.dtype
try:
    backend.kl_partial(logits, logits, partial, partial, inv_temperature=1.0)
except ValueError as error:
    print(error)
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the sources, with a torch that seems to have CUDA in ``site``."""
    for name in ("csrc", "megaent", "kernels"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "build_cuda", tmp_path / "scripts")
    real, dressed = Path(torch.__file__).parent, tmp_path / "site" / "torch"
    (dressed / "lib").mkdir(parents=True)
    (dressed / "__init__.py").touch()
    (dressed / "version.py").write_text("cuda = '13.0'\n")
    (dressed / "include").symlink_to(real / "include")
    (dressed / "lib" / "libtorch_cpu.so").symlink_to(real / "lib" / "libtorch_cpu.so")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path / "site"}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return tmp_path


def build(tree: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"MEGAENT_PYTHON": str(tree / "python"), "MEGAENT_CUDA_ARCHS": "90"}
    if shutil.which("nvcc") is None:
        environment["NVCC"] = str(FETCHED)
    command = [tree / "scripts" / "build_cuda"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)


def test_the_library_is_built_loaded_and_known_to_torch(tree: Path) -> None:
    stand_in, libraries = tree / "stand_in.cpp", tree / "site" / "torch" / "lib"
    stand_in.write_text('extern "C" int aoti_torch_get_current_cuda_stream(int, void**) { return 1; }\n')
    made = libraries / "libtorch_cuda.so"
    command = ["c++", "-shared", "-fPIC", f"{stand_in}", "-o", f"{made}", "-Wl,-soname,libtorch_cuda.so"]
    subprocess.run(command, check=True, timeout=60)
    for again in (False, True):
        done = build(tree)
        assert done.returncode == 0, done.stderr[-4000:]
        assert ("built" in done.stderr) != again
    paths = os.pathsep.join([str(tree), str(tree / "kernels")])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": paths, "LD_LIBRARY_PATH": str(libraries)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == "backend cuda has no KL to a reference; name the backend triton or reference\n"


def test_a_torch_without_cuda_is_refused(tree: Path) -> None:
    (tree / "site" / "torch" / "version.py").write_text(
        "from typing import Optional\ncuda: Optional[str] = None\n"
    )
    done = build(tree)
    assert done.returncode == 1
    assert "has no CUDA, so nothing could load the library" in done.stderr
