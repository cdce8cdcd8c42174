"""A child that asked for it is gone when its parent is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from megaent.lifetime import PARENT

CHILD = "from megaent.lifetime import end_with_parent; end_with_parent(); print('ready', flush=True); input()"
PARENT_PROGRAM = f"""
import os, subprocess, sys
from megaent.lifetime import tied_to_this_process
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], env=os.environ | tied_to_this_process(),
                         stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""


def test_a_killed_parent_takes_its_child_along() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT_PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = Path("/proc") / parent.stdout.readline().strip()
        assert child.exists()
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        deadline = time.monotonic() + 20
        while is_alive(child) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not is_alive(child)


def is_alive(process: Path) -> bool:
    try:
        return "\nState:\tZ" not in (process / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_child_of_a_parent_that_is_gone_does_not_begin() -> None:
    command = [sys.executable, "-c", CHILD]
    done = subprocess.run(
        command, env=os.environ | {PARENT: "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "ended before it began" in done.stderr
