"""Tensors that a compiled backward pass must refuse, and what it must say of them."""

from __future__ import annotations

import torch
from torch import Tensor

Change = dict[str, Tensor]


def refusals(types: str) -> list[tuple[Change, str]]:
    """What is changed of ``given``, and the message; ``types`` are those that the backend serves."""
    return [
        ({"logits": torch.zeros(4, 5).double()}, f"logits must be {types}, got Double"),
        ({"logits": torch.zeros(5, 4).T}, "logits must have rows of adjacent entries"),
        ({"target": torch.zeros(3, dtype=torch.int64)}, r"target must have shape \[4\], got \[3\]"),
        ({"stats": torch.zeros(3, 4)}, r"stats must have shape \[4 or more, 4\], got \[3, 4\]"),
        ({"grad": torch.zeros(4).double()}, "grad_log_prob must be Float, got Double"),
        ({"out": torch.zeros(4, 6)}, r"out must have shape \[4, 5\], got \[4, 6\]"),
        ({"out": torch.zeros(4, 5).bfloat16()}, "out must be Float, got BFloat16"),
    ]


def given(change: Change) -> Change:
    """Four rows of five columns that nothing is wrong with, but for the change."""
    return {
        "logits": torch.zeros(4, 5),
        "target": torch.zeros(4, dtype=torch.int64),
        "stats": torch.zeros(4, 4),
        "grad": torch.zeros(4),
        "out": torch.zeros(4, 5),
    } | change
