"""Memory that was never written holds NaN, so that reading it shows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor


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
