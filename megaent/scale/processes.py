"""A Python module run in one process or several, with a limit, and nothing of it left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from megaent.errors import RunError


def run_module(module: str, words: Sequence[str], *, ranks: int, limit_s: float) -> list[str]:
    """The lines that it said. Raises RunError where it does not end in time, or ends with a code above 0."""
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [sys.executable, *(several if ranks > 1 else []), "-m", module, *words]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired as error:
        raise RunError(f"a run did not end within {limit_s:g} s: {' '.join(command)}") from error
    finally:
        if process.poll() is None:  # with the ranks that it started
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    lines = said.splitlines()
    if process.returncode:
        raise RunError(f"a run ended with code {process.returncode}: {' '.join(command)}\n{_why(lines)}")
    return lines


def _why(said: list[str]) -> str:
    """The run's own message, without what torchrun adds below it; its last lines where there is none."""
    own = [line for line in said if line.startswith("megaent")]
    return "\n".join(own or said[-15:])
