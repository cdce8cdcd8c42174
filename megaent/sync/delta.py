"""Which tensors changed since the receivers last took them all.

Of every tensor only its type, shape and a 64-bit digest are kept, never a copy. Whoever missed a
publication is sent everything: ``forget`` is called before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from megaent.errors import EngineError

_CHUNK = 1 << 18  # words of 8 bytes digested at once: few launches on a card, inside the cache on a CPU
_GOLDEN = -7046029254386353131  # SplitMix64's constants as signed 64-bit integers
_MIX_1 = -4658895280553007687
_MIX_2 = -7723592293110705685
_FOLD = 0x100000001B3  # odd, so that folding loses nothing; the order of the chunks counts
_MASK = (1 << 64) - 1


class Fingerprint(NamedTuple):
    dtype: torch.dtype
    shape: tuple[int, ...]
    digest: int  # 64 bits of the content


def fingerprint(tensor: Tensor) -> Fingerprint:
    return Fingerprint(tensor.dtype, tuple(tensor.shape), digest(tensor))


@torch.no_grad()
def digest(tensor: Tensor) -> int:
    """64 bits that differ when any byte differs, but for one chance in 2^64; the same on every device.

    Each 8-byte word is added to a multiple of the golden ratio given by its place in the chunk, mixed as
    in SplitMix64 (Steele, Lea and Flood 2014) and summed modulo 2^64; the sums of the chunks are folded in
    order. Not meant against someone who makes collisions on purpose.
    """
    words = _as_words(tensor)
    keys = torch.arange(1, min(_CHUNK, words.numel()) + 1, device=words.device) * _GOLDEN
    sums = [_mixed_sum(chunk, keys[: chunk.numel()]) for chunk in words.split(_CHUNK)]
    folded = tensor.numel() * tensor.element_size()
    for value in torch.stack(sums).tolist() if sums else ():
        folded = (folded * _FOLD + value) & _MASK
    return folded


def _as_words(tensor: Tensor) -> Tensor:
    """The bytes as int64, the last word filled up with zeros."""
    data = tensor.detach().contiguous().view(-1).view(torch.uint8)
    whole = data.numel() // 8 * 8
    if whole == data.numel() and data.storage_offset() % 8 == 0:
        return data.view(torch.int64)
    padded = data.new_zeros(-(-data.numel() // 8) * 8)
    padded[: data.numel()] = data
    return padded.view(torch.int64)


def _mixed_sum(words: Tensor, keys: Tensor) -> Tensor:
    z = words + keys
    shifted = torch.empty_like(z)
    for bits, factor in ((30, _MIX_1), (27, _MIX_2), (31, 1)):
        # torch shifts int64 arithmetically; the copies of the sign are masked away.
        torch.bitwise_right_shift(z, bits, out=shifted)
        z.bitwise_xor_(shifted.bitwise_and_((1 << (64 - bits)) - 1)).mul_(factor)
    return z.sum()


class Delta:
    """What the receivers hold, and what they would hold after the publication that is under way."""

    def __init__(self) -> None:
        self._held: dict[str, Fingerprint] = {}
        self._coming: dict[str, Fingerprint] = {}
        self.num_skipped = 0

    def forget(self) -> None:
        """Nothing is known of the receivers: the next publication sends everything."""
        self._held = {}

    def changed(self, named_tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Those that the receivers do not hold as they are. Read to its end, then ``commit``."""
        self._coming, self.num_skipped = {}, 0
        for name, tensor in named_tensors:
            found = fingerprint(tensor)
            self._coming[name] = found
            if self._held.get(name) == found:
                self.num_skipped += 1
            else:
                yield name, tensor

    def commit(self) -> None:
        """Everybody took what ``changed`` gave."""
        missing = self._held.keys() - self._coming.keys()
        if missing:
            raise EngineError(
                f"{min(missing)} was published before and is missing now ({len(missing)} such); a model "
                "must publish the same tensors every time"
            )
        self._held = self._coming
