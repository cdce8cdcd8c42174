"""What the tests of the whole program share: one cache, and one run that nothing interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.runs import DEMO, Program, repeatable


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return Program(tmp_path_factory.mktemp("program"))


@pytest.fixture(scope="session")
def reference(program: Program) -> Path:
    """Six steps in one process with checkpoints 2, 4 and 6; to be read and copied, never changed."""
    run = program.folder / "reference"
    program.run("train", *DEMO, "checkpoint.keep=4", f"run.dir={run}").check()
    # A run that learns nothing would be equal to any other.
    assert all(line["grad/norm"] > 0 for line in repeatable(run)), "every step must teach something"
    return run
