"""Sums of floats in which the order leaves no trace: they are added as integers and rounded once, at the end.

An fp64 is an integer below 2^53 times 2^(p - 1074), p from 0 to 2045. Its bits are added to a fixed-point
number as wide as fp64 reaches: 66 limbs of 32 bits, each in an int64 of its own, so that nothing is carried
until 2^31 numbers are in. Integers add to the same in any order and any split over replicas, so the total is
the exact one. Rounding it to the nearest fp64, ties to even, gives what ``math.fsum`` gives.

Source: Neal 2015, "Fast exact summation using small and large superaccumulators", arXiv:1505.05571, the small
one. A negative number's limbs are subtracted.

N numbers, M keys, L = 69 integers a sum: the limbs, lowest first, and how many +inf, -inf and NaN there were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_LIMB = 32  # bits
_MASK = (1 << _LIMB) - 1
_NUM_LIMBS = 66  # the highest bit is 2045 + 52, in limb 65
_WIDTH = _NUM_LIMBS + 3
_FRACTION, _LOWEST = 52, 1074  # bits of an fp64's fraction; its lowest bit is worth 2^-1074
_NOT_FINITE = 0x7FF


def long_sums(value_N: Tensor, key_N: Tensor, num_keys: int) -> Tensor:
    """[M, L] int64 the sum of the values of each key in [0, M), to be added to others' and ``rounded``."""
    value_N = value_N.double()
    bits_N = value_N.view(torch.int64)
    exponent_N = (bits_N >> _FRACTION) & _NOT_FINITE
    hidden_N = (exponent_N > 0).long() << _FRACTION  # the leading 1, which subnormal numbers have not
    integer_N = (bits_N & ((1 << _FRACTION) - 1)) | hidden_N
    place_N = (exponent_N - 1).clamp(min=0)
    shift_N, sign_N = place_N % _LIMB, torch.where(bits_N < 0, -1, 1)
    first_N = key_N * _WIDTH + place_N // _LIMB
    low_N = (integer_N & _MASK) << shift_N  # below 2^63
    high_N = (low_N >> _LIMB) + ((integer_N >> _LIMB) << shift_N)
    is_finite_N = exponent_N < _NOT_FINITE
    sums = torch.zeros(num_keys * _WIDTH, dtype=torch.int64, device=value_N.device)
    for offset, limb_N in enumerate((low_N & _MASK, high_N & _MASK, high_N >> _LIMB)):
        sums.index_add_(0, first_N + offset, torch.where(is_finite_N, sign_N * limb_N, 0))
    kind_N = torch.where(value_N.isnan(), 2, (bits_N < 0).long())  # of those that are not finite
    sums.index_add_(0, key_N * _WIDTH + _NUM_LIMBS + kind_N, (~is_finite_N).long())
    return sums.view(num_keys, _WIDTH)


def rounded(sums_ML: Tensor) -> Tensor:
    """[M] fp64 nearest to each sum, +-inf where it is too large; inf and NaN count as in any sum."""
    found = [_to_float(row) for row in sums_ML.tolist()]
    return torch.tensor(found, dtype=torch.float64, device=sums_ML.device)


def _to_float(row: Sequence[int]) -> float:
    *limbs, num_inf, num_minus_inf, num_nan = row
    if num_nan or (num_inf and num_minus_inf):
        return math.nan
    if num_inf or num_minus_inf:
        return math.inf if num_inf else -math.inf
    total = sum(limb << (_LIMB * place) for place, limb in enumerate(limbs))
    try:
        return total / (1 << _LOWEST)  # of integers: rounded once
    except OverflowError:
        return math.inf if total > 0 else -math.inf
