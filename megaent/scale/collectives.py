"""Every call of this process that reaches torch's c10d operators, by kind."""

from __future__ import annotations

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Collectives(TorchDispatchMode):
    """By kind, how many were entered and how many bytes of tensors they were handed by this rank."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            kind = func.overloadpacket.__name__.strip("_")
            self.count[kind] += 1
            self.bytes[kind] += max(map(_size, args))
        return func(*args, **(kwargs or {}))

    def by_kind(self) -> dict[str, tuple[int, int]]:
        """Count and bytes."""
        return {kind: (self.count[kind], self.bytes[kind]) for kind in sorted(self.count)}


def _size(value: object) -> int:
    """Bytes of the tensors in one argument: the larger of what is given and what is got."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    return sum(map(_size, value)) if isinstance(value, (list, tuple)) else 0
