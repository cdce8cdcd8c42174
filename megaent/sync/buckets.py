"""Named tensors as a stream of flat byte buckets of bounded size, the form in which they travel.

A bucket is the bytes of whole tensors, one after the other in the order of their names, without gaps:
what SGLang takes as ``load_format=flattened_bucket``. The receiver reinterprets the bytes in place, so a
tensor must begin at a multiple of its element size; where the next one would not, a new bucket begins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TensorSpec:
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def dtype_name(self) -> str:
        """As torch and SGLang write it: "float32"."""
        return str(self.dtype).removeprefix("torch.")


@dataclass(frozen=True, slots=True)
class Bucket:
    """Some whole tensors. Example: an fp32 ``[2]`` and a bf16 scalar are 8 + 2 bytes of ``data``."""

    specs: tuple[TensorSpec, ...]
    data: Tensor  # [B] uint8

    @property
    def num_bytes(self) -> int:
        return self.data.numel()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors again, in order, as views of ``data``."""
        start = 0
        for spec in self.specs:
            stop = start + spec.num_bytes
            yield spec.name, self.data[start:stop].view(spec.dtype).view(spec.shape)
            start = stop


class Bucketer:
    """Cuts streams of tensors into buckets of at most ``bucket_bytes``; a larger tensor is one of its own.

    Two buffers take turns and are kept from one stream to the next, so a bucket is valid until the second
    one after it is asked for: one may be on its way while the next is filled. A tensor that is a bucket of
    its own is not copied where it is contiguous, and must not change before then.
    """

    def __init__(self, bucket_bytes: int) -> None:
        if bucket_bytes < 1:
            raise ValueError(f"bucket_bytes must be at least 1, got {bucket_bytes}")
        self.bucket_bytes = bucket_bytes
        self._buffers: list[Tensor] = []

    def __call__(self, named_tensors: Iterable[tuple[str, Tensor]]) -> Iterator[Bucket]:
        """Every tensor once, in order, on the device it came on; an empty stream has no bucket."""
        specs: list[TensorSpec] = []
        size = 0  # bytes
        buffer = torch.empty(0, dtype=torch.uint8)
        for name, tensor in named_tensors:
            tensor = tensor.detach()
            spec = TensorSpec(name, tensor.dtype, tuple(tensor.shape))
            is_full = size + spec.num_bytes > self.bucket_bytes
            if specs and (is_full or size % spec.dtype.itemsize):
                yield Bucket(tuple(specs), buffer[:size])
                specs, size = [], 0
            if spec.num_bytes > self.bucket_bytes:
                yield Bucket((spec,), tensor.contiguous().view(-1).view(torch.uint8))
                del tensor
                continue
            if not specs:
                buffer = self._next_buffer(tensor.device)
            specs.append(spec)
            buffer[size : size + spec.num_bytes].view(spec.dtype).view(spec.shape).copy_(tensor)
            del tensor  # before the next one is gathered
            size += spec.num_bytes
        if specs:
            yield Bucket(tuple(specs), buffer[:size])

    def _next_buffer(self, device: torch.device) -> Tensor:
        """The one that was not given out last; buffers of another device are dropped."""
        self._buffers = [buffer for buffer in self._buffers if buffer.device == device]
        if len(self._buffers) < 2:
            self._buffers.append(torch.empty(self.bucket_bytes, dtype=torch.uint8, device=device))
        else:
            self._buffers.reverse()
        return self._buffers[-1]


def cast(named_tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Floating-point tensors in ``dtype``, the others as they are: what an engine of that type would hold."""
    for name, tensor in named_tensors:
        yield name, tensor.to(dtype) if tensor.is_floating_point() else tensor
