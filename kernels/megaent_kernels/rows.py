"""What the kernels over rows of logits share: how a row lies in memory, and powers of 2.

Inside the kernels x = (z - m) / temperature is in bits, so that exp2 serves; what is stored is in nats.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

VECTOR_BYTES = 16
"""What one thread loads at once."""

LOG2E = tl.constexpr(math.log2(math.e))
LN2 = tl.constexpr(math.log(2.0))
# exp2 of it is 0, and 0 times it is 0: what -inf must contribute, where (-inf) * 0 would be NaN.
NOTHING = tl.constexpr(-1000.0)
KEEP_NAN = tl.constexpr(tl.PropagateNan.ALL)

# One compiled form for all sizes; that a number is 1 or a multiple of 16 makes no difference here.
NO_SPECIAL_NUMBERS = [
    "num_rows",
    "num_columns",
    "row_vectors",
    "row_units_z",
    "row_units_ref",
    "row_units_out",
    "stride_out",
    "vocab_start",
    "num_spans",
    "span_vectors",
    "num_blocks",
]


@triton.jit
def exp2_or_0(x):
    """2^x, 0 for -inf; NaN stays."""
    return tl.exp2(tl.maximum(x, NOTHING, propagate_nan=KEEP_NAN))


def adjacent(rows_NV: Tensor) -> Tensor:
    """Rows may be apart, the entries of a row may not; a copy is made only then."""
    return rows_NV if rows_NV.shape[1] == 1 or rows_NV.stride(1) == 1 else rows_NV.contiguous()


def is_aligned(rows_NV: Tensor) -> bool:
    """Whether every row begins at a multiple of 16 bytes."""
    distance = rows_NV.stride(0) * rows_NV.itemsize
    return rows_NV.data_ptr() % VECTOR_BYTES == 0 and distance % VECTOR_BYTES == 0
