"""The rows of the statistics that every backend returns, by name; what they mean is said in reference.py.

The numbers are those of ``csrc/cpu/rows.h``, ``csrc/cuda/ops.h`` and ``kernels/``.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

DIGIT = 8
"""Bits of a logit that one pass of ``megaent.ops.nucleus`` tells apart."""

NUM_DIGITS = 1 << DIGIT

MASS_UNIT = 2.0**-40
"""In which a probability over the row's largest is counted; 2^22 columns of 1 still fit 63 bits."""


class Partial(IntEnum):
    """Of one shard's columns; the last two where moments are asked for."""

    MAX = 0
    COUNT = 1
    BELOW = 2
    WEIGHTED = 3
    TARGET = 4
    SQUARES = 5
    WEIGHTED_SQUARES = 6

    @staticmethod
    def number(moments: bool) -> int:
        return 7 if moments else 5


class Stat(IntEnum):
    """Of whole rows; the last two where moments are asked for."""

    LOG_PROB = 0
    ENTROPY = 1
    MAX = 2
    LOG_TOTAL = 3
    SUM_P2 = 4
    VARENTROPY = 5

    @staticmethod
    def number(moments: bool) -> int:
        return 6 if moments else 4


# ---------------------------------------------------------------- shapes, for torch.compile


def fake_logits_stats(
    logits: Tensor, target: Tensor, vocab_start: int, inv_temperature: float, moments: bool
) -> Tensor:
    return logits.new_empty(Partial.number(moments), logits.shape[0], dtype=torch.float32)


def fake_stats_combine(partials: list[Tensor], inv_temperature: float) -> Tensor:
    rows, num_tokens = partials[0].shape
    return partials[0].new_empty(Stat.number(rows == Partial.number(True)), num_tokens)
