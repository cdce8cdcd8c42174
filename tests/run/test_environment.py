"""A variable that no op could obey is refused before a model is built."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from megaent.errors import ConfigError
from megaent.run.environment import check_ops

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["nonsense", "cuda", "triton"])
def test_a_backend_that_cannot_serve_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    check_ops("float32", CPU)
    monkeypatch.setenv("MEGAENT_OPS_BACKEND", name)
    with pytest.raises(
        ConfigError, match=rf"cannot run with MEGAENT_OPS_BACKEND='{name}'.*: backend .*command\.json"
    ):
        check_ops("float32", CPU)


def test_a_level_that_no_processor_has_is_named() -> None:
    """In a process of its own: the level is read once."""
    program = (
        "import torch; from megaent.run.environment import check_ops; "
        "check_ops('float32', torch.device('cpu'))"
    )
    environment = os.environ | {"MEGAENT_OPS_SIMD": "mmx", "MEGAENT_OPS_BACKEND": "cpu"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert "ConfigError: the ops cannot run with" in done.stderr
    assert "MEGAENT_OPS_SIMD='mmx'" in done.stderr
