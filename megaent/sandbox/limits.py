"""What a program may use, set by the kernel on its own process just before it begins."""

from __future__ import annotations

import math
import os
import resource
import signal
from dataclasses import dataclass

from megaent.sandbox import linux, seccomp

_FILES = 32  # open at once
_THREADS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    cpu_s: float = 2.0  # processor time
    wall_s: float = 10.0
    memory_mib: int = 512  # of addresses
    output_bytes: int = 1 << 20  # on each of standard output, standard error and what calls return


def restrict(limits: Limits, *, has_seccomp: bool) -> None:
    """This process, for good. Raises OSError where the kernel refuses."""
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    for kind, value in (
        (resource.RLIMIT_CPU, math.ceil(limits.cpu_s) + 1),  # should nobody look; the worker stops it before
        (resource.RLIMIT_AS, limits.memory_mib << 20),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        resource.setrlimit(kind, (value, value))
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    linux.drop_capabilities()
    if has_seccomp:
        seccomp.confine(os.getpid())


def restrict_threads() -> None:
    """Of all that runs in this process's namespace of users; root on the machine is not bound by it."""
    resource.setrlimit(resource.RLIMIT_NPROC, (_THREADS, _THREADS))
