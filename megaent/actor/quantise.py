"""Eight-bit rounding by Transformer Engine's rules, on any device: scaled, rounded, and scaled back.

The rules are those of its casts (``compute_scale_from_amax``, ``float_to_e8m0``): per-tensor current
scaling, blocks of 1 x 128 and 128 x 128 with powers of two, and MXFP8's blocks of 32. Rounding is to the
nearest, ties to even, and what is too large becomes the largest number. Tensors [M, N] come back in fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
TILE, MICROSCALED = 128, 32  # values that share a scale
_EXPONENT, _MANTISSA = 0x7F800000, 0x007FFFFF  # bits of an fp32 number
_LARGEST_FP32 = torch.finfo(torch.float32).max


class Operand(NamedTuple):
    """A matrix on its way into a product."""

    values_MN: Tensor
    along: int  # the axis that is summed over
    is_weight: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the three products of a linear layer round what they multiply."""

    rounded: Callable[[Operand, torch.dtype], Tensor]
    forward: torch.dtype  # of inputs and weights
    backward: torch.dtype  # of gradients of outputs


def scale_of(amax: Tensor, kind: torch.dtype, *, power_of_two: bool) -> Tensor:
    """fp32: what to multiply by, so that ``amax`` becomes the kind's largest number.

    1 for a block of zeros or one that is not finite; where it would exceed fp32, the largest fp32. A power of
    two is the next one below.
    """
    largest = torch.tensor(torch.finfo(kind).max, dtype=torch.float32, device=amax.device)
    scale = (largest / amax).clamp(max=_LARGEST_FP32)
    if power_of_two:
        scale = (scale.view(torch.int32) & _EXPONENT).view(torch.float32)
    return torch.where((amax > 0) & torch.isfinite(amax), scale, torch.ones_like(scale))


def exponent_scale(amax: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
    """MXFP8's scale of blocks with these ``amax``: (what to multiply by, what to multiply back by), fp32.

    An E8M0 exponent, rounded up, so that nothing exceeds the kind's largest number.
    """
    reciprocal = torch.tensor(1.0 / torch.finfo(kind).max, dtype=torch.float32, device=amax.device)
    bits = (amax * reciprocal).view(torch.int32)
    exponent, mantissa = bits >> 23, bits & _MANTISSA
    is_up = (mantissa > 0) & (exponent != 254) & ~((exponent == 0) & (mantissa <= 0x400000))
    exponent = torch.where(torch.isinf(amax), 254, exponent + is_up.int())
    power = (exponent - 127).double()
    return torch.exp2(-power).float(), torch.exp2(power).float()


def cast(values: Tensor, kind: torch.dtype) -> Tensor:
    """fp32 numbers rounded to ``kind``, in fp32; NaN stays NaN."""
    largest = torch.finfo(kind).max
    return values.clamp(-largest, largest).to(kind).float()


# ---------------------------------------------------------------- blocks


def tensorwise(operand: Operand, kind: torch.dtype) -> Tensor:
    """One scale for the whole matrix, whatever is summed over."""
    values_MN = operand.values_MN.float()
    amax = values_MN.abs().amax() if values_MN.numel() else values_MN.new_zeros(())
    scale = scale_of(amax, kind, power_of_two=False)
    return cast(values_MN * scale, kind) * scale.reciprocal()


def blockwise(operand: Operand, kind: torch.dtype) -> Tensor:
    """Weights by 128 x 128 blocks; all else by tiles of 128 along what is summed over."""
    if operand.is_weight:
        return _in_blocks(operand.values_MN, kind, rows=TILE, columns=TILE)
    return _along(operand, lambda values_MN: _in_blocks(values_MN, kind, rows=1, columns=TILE))


def microscaled(operand: Operand, kind: torch.dtype) -> Tensor:
    """Blocks of 32 along what is summed over, weights too."""
    return _along(operand, lambda values_MN: _in_micro_blocks(values_MN, kind))


def _along(operand: Operand, rounded: Callable[[Tensor], Tensor]) -> Tensor:
    """``rounded`` works along the last axis."""
    if operand.along == 1:
        return rounded(operand.values_MN)
    return rounded(operand.values_MN.T).T


def _in_blocks(values_MN: Tensor, kind: torch.dtype, *, rows: int, columns: int) -> Tensor:
    blocks, shape = _blocks(values_MN.float(), rows, columns)
    scale = scale_of(blocks.abs().amax((1, 3), keepdim=True), kind, power_of_two=True)
    return _whole(cast(blocks * scale, kind) * scale.reciprocal(), shape)


def _in_micro_blocks(values_MN: Tensor, kind: torch.dtype) -> Tensor:
    blocks, shape = _blocks(values_MN.float(), 1, MICROSCALED)
    there, back = exponent_scale(blocks.abs().amax((1, 3), keepdim=True), kind)
    return _whole(cast(blocks * there, kind) * back, shape)


def _blocks(values_MN: Tensor, rows: int, columns: int) -> tuple[Tensor, torch.Size]:
    """[M / rows, rows, N / columns, columns], filled up with zeros; and the shape to go back to."""
    (m, n), shape = values_MN.shape, values_MN.shape
    padded = F.pad(values_MN, (0, -n % columns, 0, -m % rows))
    return padded.reshape(padded.shape[0] // rows, rows, padded.shape[1] // columns, columns), shape


def _whole(blocks: Tensor, shape: torch.Size) -> Tensor:
    rows, columns = blocks.shape[0] * blocks.shape[1], blocks.shape[2] * blocks.shape[3]
    return blocks.reshape(rows, columns)[: shape[0], : shape[1]]


RECIPES = {
    "tensorwise": Recipe(tensorwise, forward=E4M3, backward=E5M2),
    "blockwise": Recipe(blockwise, forward=E4M3, backward=E4M3),
    "mxfp8": Recipe(microscaled, forward=E4M3, backward=E4M3),
}
"""With the kinds that Transformer Engine's recipes have by default: ``HYBRID``, ``E4M3`` and ``E4M3``."""
