"""Runs in the server's own interpreter: SGLang, ended by the kernel when the process that started it ends.

Started by path and not as part of the package, which that interpreter does not have.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """``launcher.py PARENT_PID SERVER_ARGUMENT…``"""
    parent = int(sys.argv[1])
    if sys.platform == "linux":
        # SGLang's own processes ask the same of the kernel, so that none outlives this one.
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) was refused")
    if os.getppid() != parent:
        sys.exit("the process that started this server ended before the server began")
    sys.argv = ["sglang.launch_server", *sys.argv[2:]]
    runpy.run_module("sglang.launch_server", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
