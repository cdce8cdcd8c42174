"""Launch parameters of the row kernels, as data.

The forward ones decide the order of a row's sums, so they may depend on the vocabulary and the type of the
logits and on nothing else: never on the number of rows, or a row's bits would depend on its batch.
"""

from __future__ import annotations

from typing import NamedTuple


class ForwardLaunch(NamedTuple):
    """One program sums ``span`` columns of a row; each of its lanes reads 16 bytes a step."""

    lanes: int  # a power of two
    span: int  # columns; a multiple of lanes times the entries in 16 bytes
    num_warps: int


class BackwardLaunch(NamedTuple):
    """One program writes ``block`` columns of a row."""

    block: int  # columns, a power of two
    num_warps: int


SMALL_VOCABULARY = 8192
"""Up to here a row is one program's work, and a narrow one wastes fewer lanes on it."""

_FORWARD = {
    "small": ForwardLaunch(lanes=128, span=SMALL_VOCABULARY, num_warps=4),
    "large": ForwardLaunch(lanes=512, span=32768, num_warps=4),
}
_BACKWARD = {
    "small": BackwardLaunch(block=1024, num_warps=4),
    "large": BackwardLaunch(block=4096, num_warps=4),
}


def forward_launch(num_columns: int) -> ForwardLaunch:
    return _FORWARD["small" if num_columns <= SMALL_VOCABULARY else "large"]


def backward_launch(num_columns: int) -> BackwardLaunch:
    return _BACKWARD["small" if num_columns <= SMALL_VOCABULARY else "large"]


COMBINE_ROWS = 128
"""Rows of one program that merges partial statistics, one a thread."""
