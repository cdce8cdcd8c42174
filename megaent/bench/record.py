"""What a measurement is worth nothing without: the machine, the versions, the commit, the command."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
"""The checkout, where there is one."""

_PACKAGES = (
    "torch",
    "triton",
    "flash-attn",
    "transformer-engine",
    "liger-kernel",
    "verl",
    "cut-cross-entropy",
)


def describe(device: str, command: str) -> dict[str, Any]:
    return {
        "machine": _gpu() if device == "cuda" else _processor(),
        "versions": {"python": platform.python_version(), "cuda": torch.version.cuda} | _versions(),
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
        "command": command,
    }


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _gpu() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "compute_capability": f"{properties.major}.{properties.minor}",
    }


def _processor() -> dict[str, Any]:
    from megaent.ops.backend import available_backends

    level = None
    if "cpu" in available_backends():
        from megaent.ops import cpu

        level = cpu.simd_level()
    return {
        "name": _processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": level,
        "load_before": list(os.getloadavg()),
    }


def _processor_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str:
    """Of the checkout, with a mark where files differ from it; or what ``MEGAENT_COMMIT`` says."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return done.stdout.strip() or os.environ.get("MEGAENT_COMMIT", "unknown")
