"""Peak memory of a stretch of work, in GiB."""

from __future__ import annotations

import resource
from pathlib import Path

import torch

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_RESET_PEAK = "5"  # proc(5): resets the peak resident set size


def reset_peak() -> None:
    """Begin a stretch. Without CUDA and without Linux's /proc there is no resetting: see ``peak_gib``."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif _CLEAR.exists():
        _CLEAR.write_text(_RESET_PEAK)


def peak_gib() -> float:
    """Since the last reset: the card's allocator where there is one, else this process's resident memory.

    Where the kernel cannot reset the peak (macOS) it is the peak since the process began.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    if _CLEAR.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
