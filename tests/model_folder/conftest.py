"""A parallel layout of this one process, for the tests that need no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from megaent.actor.parallel import Layout, close_parallel, init_parallel
from megaent.actor.sizes import Sizes


@pytest.fixture(scope="module")
def layout() -> Iterator[Layout]:
    yield init_parallel(Sizes(), device=torch.device("cpu"), timeout_s=60, seed=0)
    close_parallel()
