"""What the tests of the whole program share: one cache, and one run that nothing interrupted."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest
from support.runs import DEMO, Program, repeatable, shared_folder


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return Program(tmp_path_factory.mktemp("program"))


@pytest.fixture(scope="session")
def reference() -> Path:
    """Six steps in one process with checkpoints 2, 4 and 6; to be read and copied, never changed.

    One run for all processes of pytest-xdist: who comes first makes it, and the others wait.
    """
    run, whole = shared_folder() / "reference", shared_folder() / "reference.whole"
    with (shared_folder() / "reference.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            Program(shared_folder()).run("train", *DEMO, "checkpoint.keep=4", f"run.dir={run}").check()
            whole.touch()
    # A run that learns nothing would be equal to any other.
    assert all(line["grad/norm"] > 0 for line in repeatable(run)), "every step must teach something"
    return run
