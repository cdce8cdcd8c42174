"""What torch says when another process of the run is not heard from any more."""

from __future__ import annotations

import torch.distributed as dist

_SIGNS = (
    "Timed out waiting",  # gloo, after run.timeout_s
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "wait timeout after",  # the store
    "remote process exited",  # NCCL
    "collective operation timeout",
)


def is_of_lost_peer(error: RuntimeError) -> bool:
    """gloo raises nothing more precise than a RuntimeError."""
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in _SIGNS)
