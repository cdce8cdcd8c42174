"""What is measured: one way from inputs and targets to the statistics of every token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

Compute = Callable[..., Sequence[Tensor]]
"""A problem's inputs and what is given -> the outputs of its path or the first of them, through autograd."""


class Contender(NamedTuple):
    name: str
    compute: Compute | None  # None where it is absent; the note says why
    is_ours: bool = False
    has_entropy: bool = True
    is_sum: bool = False  # gives one number, the sum of log_prob
    overwrites: bool = False  # its first input is used up
    trains_only: bool = False  # its forward pass is another contender's
    num_products: int = 3  # matrix products of a forward and a backward pass from hidden states
    note: str = ""
