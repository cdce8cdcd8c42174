"""Every random draw is a function of what it is for; no generator carries a state.

A seed is a hash of the run's seed and a purpose, for example ``draw_seed(0, "rollout", step,
prompt.id, response_index)``, so no draw depends on the rank that makes it, on the order of
requests, or on what was drawn before, and nothing has to be saved in a checkpoint.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def draw_seed(*purpose: int | str) -> int:
    """A 63-bit seed for one purpose; equal purposes give equal seeds on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in purpose)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def uniform(seed: Tensor, counter: Tensor) -> Tensor:
    """One uniform number in (0, 1) per (seed, counter), fp64, from SplitMix64.

    ``seed`` and ``counter`` are int64 of one shape. Steele, Lea and Flood 2014, "Fast splittable
    pseudorandom number generators": the state ``seed + (counter + 1) * golden`` is mixed, and its
    upper 52 bits, with half a unit added so that neither 0 nor 1 can occur, are the number.
    """
    z = seed + (counter + 1) * _GOLDEN
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    z = z ^ _shift_right(z, 31)
    return (_shift_right(z, 12).double() + 0.5) * 2.0**-52


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift of int64, which torch only offers as arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
