"""Eight-bit rounding against numbers put together from bits, and exact arithmetic, one value at a time."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch

from megaent.actor.quantise import (
    E4M3,
    E5M2,
    RECIPES,
    Operand,
    blockwise,
    exponent_scale,
    microscaled,
    scale_of,
    tensorwise,
)

BITS = {E4M3: (4, 3, 7), E5M2: (5, 2, 15)}  # of exponent and mantissa, and the bias


def numbers(kind: torch.dtype) -> list[Fraction]:
    """Every finite number of 0 or more, in order: the place's last bit is the mantissa's."""
    exponent_bits, mantissa_bits, bias = BITS[kind]
    found = []
    for code in range(2 ** (exponent_bits + mantissa_bits)):
        exponent, mantissa = divmod(code, 2**mantissa_bits)
        normal = Fraction(mantissa, 2**mantissa_bits) + (exponent > 0)
        found.append(normal * Fraction(2) ** (max(exponent, 1) - bias))
    # E4M3 has one NaN and no infinity; E5M2's last exponent is infinity and NaN, as in IEEE 754.
    return found[:-1] if kind == E4M3 else found[: -(2**mantissa_bits)]


GRID = {kind: numbers(kind) for kind in BITS}


def rounded(value: float, kind: torch.dtype) -> float:
    """To the nearest, ties to even, saturating."""
    grid, size = GRID[kind], abs(Fraction(value))
    if size >= grid[-1]:
        return math.copysign(float(grid[-1]), value)
    above = next(place for place, number in enumerate(grid) if number >= size)
    below = max(above - 1, 0)
    up, down = grid[above] - size, size - grid[below]
    place = above if up < down or (up == down and above % 2 == 0) else below
    return math.copysign(float(grid[place]), value)


def fp32(value: Fraction | float) -> float:
    return float(np.float32(float(value)))


def current_scale(amax: float, kind: torch.dtype, *, power_of_two: bool) -> float:
    if amax == 0 or not math.isfinite(amax):
        return 1.0
    largest = np.finfo(np.float32).max
    with np.errstate(over="ignore"):
        scale = float(min(np.float32(float(GRID[kind][-1])) / np.float32(amax), largest))
    return 2.0 ** (math.frexp(scale)[1] - 1) if power_of_two else scale


def of_block(values: list[float], kind: torch.dtype, *, power_of_two: bool) -> list[float]:
    scale = current_scale(max(map(abs, values)), kind, power_of_two=power_of_two)
    back = fp32(Fraction(1) / Fraction(scale))
    return [
        fp32(Fraction(rounded(fp32(Fraction(v) * Fraction(scale)), kind)) * Fraction(back)) for v in values
    ]


def of_micro_block(values: list[float], kind: torch.dtype) -> list[float]:
    reciprocal = fp32(1 / float(GRID[kind][-1]))
    wanted = fp32(Fraction(max(map(abs, values))) * Fraction(reciprocal))
    exponent = math.ceil(math.log2(Fraction(wanted))) if wanted else -127
    exponent = max(exponent, -127)
    scale = Fraction(2) ** exponent
    return [fp32(Fraction(rounded(fp32(Fraction(v) / scale), kind)) * scale) for v in values]


def in_blocks(
    matrix: torch.Tensor, rows: int, columns: int, rule: Callable[[list[float]], list[float]]
) -> torch.Tensor:
    out = torch.empty_like(matrix)
    for i in range(0, matrix.shape[0], rows):
        for j in range(0, matrix.shape[1], columns):
            block = matrix[i : i + rows, j : j + columns]
            out[i : i + rows, j : j + columns] = torch.tensor(rule(block.flatten().tolist())).view_as(block)
    return out


def matrices() -> dict[str, torch.Tensor]:
    """Ordinary ones, and those on which a scale or a cast could go wrong."""
    noise = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=noise)

    outlier = 1e-3 * normal(4, 160)
    outlier[2, 150] = 3e4
    zeros = normal(3, 300)
    zeros[:, 128:256] = 0
    spread = normal(5, 140) * torch.exp2(torch.randint(-30, 30, (5, 140), generator=noise).float())
    ties = torch.arange(-464, 466, 2.0).view(
        1, -1
    )  # halfway between neighbours of E4M3, under a scale near 1
    return {
        "normal": normal(6, 128),
        "ragged": normal(3, 70),
        "one outlier": outlier,
        "a block of zeros": zeros,
        "zeros": torch.zeros(2, 64),
        "powers from 2^-30 to 2^30": spread,
        "ties": ties,
        "subnormal": normal(2, 40) * 1e-41,
        "tiny": normal(2, 40) * 1e-37,
        "huge": normal(2, 40) * 1e37,
    }


MATRICES = matrices()


@pytest.mark.parametrize("kind", BITS, ids=("e4m3", "e5m2"))
@pytest.mark.parametrize("name", MATRICES)
def test_every_recipe_is_exact_arithmetic_on_numbers_put_together_from_bits(
    name: str, kind: torch.dtype
) -> None:
    x = MATRICES[name]
    whole = in_blocks(x, *x.shape, lambda block: of_block(block, kind, power_of_two=False))
    assert torch.equal(tensorwise(Operand(x, along=1), kind), whole)
    assert torch.equal(tensorwise(Operand(x, along=0), kind), whole)

    def tile(block: list[float]) -> list[float]:
        return of_block(block, kind, power_of_two=True)

    assert torch.equal(blockwise(Operand(x, along=1), kind), in_blocks(x, 1, 128, tile))
    assert torch.equal(blockwise(Operand(x.T, along=0), kind), in_blocks(x, 1, 128, tile).T)
    assert torch.equal(blockwise(Operand(x, along=1, is_weight=True), kind), in_blocks(x, 128, 128, tile))

    def micro(block: list[float]) -> list[float]:
        return of_micro_block(block, kind)

    for is_weight in (False, True):
        found = microscaled(Operand(x, along=1, is_weight=is_weight), kind)
        assert torch.equal(found, in_blocks(x, 1, 32, micro))
        found = microscaled(Operand(x.T, along=0, is_weight=is_weight), kind)
        assert torch.equal(found, in_blocks(x, 1, 32, micro).T)


def test_the_scale_of_what_is_zero_infinite_or_nan_is_one() -> None:
    odd = torch.tensor([0.0, math.inf, math.nan])
    for power_of_two in (False, True):
        assert scale_of(odd, E4M3, power_of_two=power_of_two).tolist() == [1.0, 1.0, 1.0]


def test_nan_stays_nan_and_infinity_becomes_the_largest_number() -> None:
    x = torch.tensor([[1.0, math.nan, 2.0]])
    for recipe in RECIPES.values():
        found = recipe.rounded(Operand(x, along=1), recipe.forward)
        assert torch.isnan(found[0, 1])
    assert tensorwise(Operand(torch.tensor([[math.inf, -1.0]]), along=1), E4M3).tolist() == [[448.0, -1.0]]


def test_an_exponent_is_that_of_the_next_power_of_two_above() -> None:
    amax = torch.tensor([448.0, 449.0, 447.0, 448.0 * 2**20, 0.0])
    there, back = exponent_scale(amax, E4M3)
    assert back.tolist() == [1.0, 2.0, 1.0, 2.0**20, 2.0**-127]
    assert there.tolist() == [1.0, 0.5, 1.0, 2.0**-20, math.inf if math.isinf(float(there[4])) else 2.0**127]
    assert all(struct.unpack("<I", struct.pack("<f", each))[0] & 0x7FFFFF == 0 for each in back.tolist()[:4])


def test_nothing_is_something_that_can_be_rounded() -> None:
    for recipe in RECIPES.values():
        assert recipe.rounded(Operand(torch.zeros(0, 8), along=1), recipe.forward).shape == (0, 8)
        assert recipe.rounded(Operand(torch.zeros(0, 8), along=0), recipe.forward).shape == (0, 8)
