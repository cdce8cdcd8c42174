"""The programs in docs/examples run and do what they say."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pytest


def example(repository: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, repository / "docs" / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_foreign_training_loop_learns(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop = example(repository, "foreign_loop")
    losses = loop.train()
    assert losses[0] == pytest.approx(math.log(loop.VOCAB), abs=0.5), "nothing is known at first"
    assert losses[-1] < 0.1
    assert capsys.readouterr().out.count("entropy") == loop.NUM_STEPS // 10
