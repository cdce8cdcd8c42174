"""Memory that was never written holds NaN, so that reading it shows."""

from __future__ import annotations

import pytest
import torch
from support.levels import LEVELS
from torch import Tensor

from megaent.ops.backend import available_backends


@pytest.fixture(autouse=True)
def poisoned_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("empty", "empty_like", "empty_strided"):
        real = getattr(torch, name)

        def poisoned(*args, real=real, **kwargs) -> Tensor:
            made = real(*args, **kwargs)
            return made.fill_(torch.nan) if made.is_floating_point() else made

        monkeypatch.setattr(torch, name, poisoned)


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(20)


@pytest.fixture(params=["reference", *LEVELS])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The backend's name; the C++ one comes once per instruction level."""
    if request.param == "reference":
        return "reference"
    if "cpu" not in available_backends():
        pytest.skip("the C++ ops are not built; run `./scripts/build_ops`")
    monkeypatch.setenv("MEGAENT_OPS_SIMD", request.param)
    return "cpu"


@pytest.fixture(params=["reference", "cpu"])
def backend(request: pytest.FixtureRequest) -> str:
    """The backends that run on a CPU; Triton's has its cases in triton_cases.py."""
    if request.param not in available_backends():
        pytest.skip("the C++ ops are not built; run `./scripts/build_ops`")
    return request.param
