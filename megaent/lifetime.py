"""A process that ends with the one that started it, however that one ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT = "MEGAENT_PARENT"
"""The environment variable that names the process to end with; it is not passed on."""

_PR_SET_PDEATHSIG = 1


def tied_to_this_process() -> dict[str, str]:
    """What to add to the environment of a child that calls ``end_with_parent``."""
    return {PARENT: str(os.getpid())}


def end_with_parent() -> None:
    """Ask the kernel for SIGKILL when the parent ends, where the environment names it; Linux alone can."""
    parent = os.environ.pop(PARENT, None)
    if parent is None or sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) was refused")
    if str(os.getppid()) != parent:
        sys.exit("the process that started this one ended before it began")
