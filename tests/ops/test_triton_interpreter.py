"""The Triton kernels run step by step on the CPU; the cases are in triton_*cases.py.

Whether kernels are interpreted is decided when they are defined, so each group has a process of its own.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton is not installed; run `pip install triton==3.6.0`",
)

NUMERICS = "values or entropies or offset or maxima or infinity or huge or number"


def run(repository: Path, *arguments: str, interpret: bool) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{repository}{os.pathsep}{repository / 'kernels'}"}
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@needs_triton
@pytest.mark.parametrize(
    ("file", "group", "at_least"),
    [
        ("triton_cases", NUMERICS, 32),
        ("triton_cases", f"not ({NUMERICS})", 13),
        ("triton_divergence_cases", "test", 15),
    ],
    ids=["numerics", "memory_and_splits", "divergence"],
)
def test_interpreted(repository: Path, file: str, group: str, at_least: int) -> None:
    done = run(
        repository, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/ops/{file}.py", "-k", group,
        interpret=True,
    )  # fmt: skip
    passed = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert passed, done.stdout[-2000:]
    assert int(passed[1]) >= at_least


@needs_triton
def test_tensors_on_the_cpu_are_refused_outside_the_interpreter(repository: Path) -> None:
    program = (
        "import torch; from megaent.ops import triton\n"
        "triton.logits_stats(torch.zeros(1, 8), torch.tensor([0]), vocab_start=0, inv_temperature=1.0)"
    )
    done = run(repository, "-c", program, interpret=False)
    assert done.returncode == 1
    assert "backend triton runs on a GPU, got logits on cpu" in done.stderr


def test_without_triton_the_error_says_how_to_get_it(repository: Path) -> None:
    program = "import sys; sys.modules['triton'] = None\nimport megaent.ops.triton"
    done = run(repository, "-c", program, interpret=False)
    assert done.returncode == 1
    assert "MissingDependency: backend triton needs Triton" in done.stderr
    assert "pip install 'megaent[gpu]'" in done.stderr


@needs_triton
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_more_than_2_to_the_31_entries_on_a_gpu(dtype: torch.dtype) -> None:
    """The last row lies where 32-bit offsets have wrapped around."""
    from support.truth import textbook

    from megaent.ops import triton

    num_tokens, vocab = 14200, 151936
    logits = torch.zeros(num_tokens, vocab, dtype=dtype, device="cuda")
    logits[-1] = torch.randn(vocab, device="cuda")
    target = torch.full((num_tokens,), 7, device="cuda")
    part = triton.logits_stats(logits, target, vocab_start=0, inv_temperature=1.0)
    stats = triton.stats_combine([part], inv_temperature=1.0)
    exact = textbook(logits[-1:].double(), target[-1:])
    torch.testing.assert_close(stats[0, -1:].double(), exact.log_prob, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(stats[1, -1:].double(), exact.entropy, rtol=1e-6, atol=1e-6)
