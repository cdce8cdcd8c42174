"""The digest by which an SGLang server on a GPU names the content of a parameter, in plain torch.

sglang 0.5.23, kernels/ops/memory/gpu_tensor_hash.py, computes it in Triton. With the bytes as 32-bit words
w_i, i counted from 0, all arithmetic modulo 2^32, and mix the finaliser of MurmurHash3 (Appleby 2011):

    key_i    = (i * factor + seed) xor rotl(i, bits)         for two lanes, each with its own numbers
    h(tile)  = mix( bytes xor sum over the tile of mix(w_i xor key_i) )
    digest   = splitmix( sum over the tiles of (h_1 << 32 | h_2), modulo 2^64 )

A tile is 8192 words; bytes is the length, filled up to whole words with zeros. Equal to it on any device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_TILE = 8192  # words
_TILES_AT_ONCE = 64  # 4 MiB of int64 at a time
_SEED = 0x243F6A88
_LANES = (  # factor of the place, seed, bits it is rotated by
    (0x27D4EB2D, _SEED, 15),
    (0x165667B1, (_SEED * 0x9E3779B1 ^ 0xDEADBEEF) & 0xFFFFFFFF, 13),
)
_MASK_32 = 0xFFFFFFFF
_MASK_64 = (1 << 64) - 1


@torch.no_grad()
def card_digest(parts: Sequence[Tensor]) -> str:
    """16 hexadecimal digits of the bytes of ``parts``, one after the other."""
    data = torch.cat([part.contiguous().view(-1).view(torch.uint8) for part in parts])
    words = F.pad(data, (0, -data.numel() % 4)).view(torch.int32)
    if not words.numel():
        return f"{0:016x}"
    num_bytes = 4 * words.numel() & _MASK_32
    total, step = 0, _TILE * _TILES_AT_ONCE
    for start in range(0, words.numel(), step):
        total += sum(_tile_hashes(words[start : start + step], start, num_bytes))
    return f"{_splitmix(total & _MASK_64):016x}"


def _tile_hashes(words: Tensor, start: int, num_bytes: int) -> list[int]:
    """One 64-bit number per tile of ``words``, the first of which has place ``start``."""
    index = torch.arange(start, start + words.numel(), device=words.device) & _MASK_32
    words = words.long() & _MASK_32
    halves = []
    for factor, seed, bits in _LANES:
        rotated = (index << bits | index >> (32 - bits)) & _MASK_32
        mixed = _mix(words ^ ((index * factor + seed) & _MASK_32) ^ rotated)
        tiles = F.pad(mixed, (0, -mixed.numel() % _TILE)).view(-1, _TILE).sum(1) & _MASK_32
        halves.append(_mix(tiles ^ num_bytes).tolist())
    return [high << 32 | low for high, low in zip(*halves, strict=True)]


def _mix(x: Tensor) -> Tensor:
    """32-bit words held in int64."""
    x = (x ^ x >> 16) * 0x85EBCA6B & _MASK_32
    x = (x ^ x >> 13) * 0xC2B2AE35 & _MASK_32
    return x ^ x >> 16


def _splitmix(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _MASK_64
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _MASK_64
    return x ^ x >> 31
