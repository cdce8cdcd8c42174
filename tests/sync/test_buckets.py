"""What goes through buckets comes out bit for bit, in order, within the bound on bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from megaent.sync.buckets import Bucket, Bucketer, cast

DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.int8, torch.int64, torch.bool]
SHAPES = [(), (0,), (1,), (3,), (5, 7), (0, 4), (2, 3, 4)]


def bytes_of(tensor: Tensor) -> bytes:
    """The elements in row-major order, read without torch's own reinterpretation."""
    return bytes(tensor.detach().contiguous().untyped_storage().tolist()[: tensor.nbytes])


def random_tensor(number: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """Random bits: NaNs, infinities and subnormal numbers included."""
    rng = torch.Generator().manual_seed(number)
    if dtype == torch.bool:
        return torch.rand(shape, generator=rng) < 0.5
    raw = torch.randint(0, 256, (math.prod(shape) * dtype.itemsize,), generator=rng, dtype=torch.uint8)
    return raw.view(dtype).view(shape)


def copied(bucketer: Bucketer, named: list[tuple[str, Tensor]]) -> list[Bucket]:
    """Buckets that outlive the stream."""
    return [Bucket(bucket.specs, bucket.data.clone()) for bucket in bucketer(named)]


def assert_same_bits(buckets: list[Bucket], named: list[tuple[str, Tensor]]) -> None:
    arrived = [pair for bucket in buckets for pair in bucket.tensors()]
    assert [name for name, _ in arrived] == [name for name, _ in named]
    for (name, there), (_, here) in zip(arrived, named, strict=True):
        assert (there.dtype, there.shape) == (here.dtype, here.shape), name
        assert bytes_of(there.clone()) == bytes_of(here), name


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(st.tuples(st.sampled_from(DTYPES), st.sampled_from(SHAPES)), max_size=12),
    bucket_bytes=st.integers(1, 200),
)
def test_every_bit_comes_out_in_order(
    kinds: list[tuple[torch.dtype, tuple[int, ...]]], bucket_bytes: int
) -> None:
    named = [(f"t{i}", random_tensor(i, dtype, shape)) for i, (dtype, shape) in enumerate(kinds)]
    buckets = copied(Bucketer(bucket_bytes), named)
    assert_same_bits(buckets, named)
    for bucket in buckets:
        assert bucket.data.dtype == torch.uint8
        assert bucket.num_bytes == sum(spec.num_bytes for spec in bucket.specs)
        assert bucket.num_bytes <= bucket_bytes or len(bucket.specs) == 1
        start = 0
        for spec in bucket.specs:
            assert start % spec.dtype.itemsize == 0, "the receiver refuses a tensor at such a byte"
            start += spec.num_bytes


def test_the_bytes_are_those_of_the_tensors_without_gaps() -> None:
    named = [("a", torch.tensor([1.5, -2.0])), ("b", torch.tensor(3.0, dtype=torch.bfloat16))]
    (bucket,) = copied(Bucketer(64), named)
    assert bytes(bucket.data.tolist()) == bytes.fromhex("0000c03f000000c04040")
    assert [spec.dtype_name for spec in bucket.specs] == ["float32", "bfloat16"]


def test_a_bucket_is_filled_before_the_next_begins() -> None:
    named = [(f"t{i}", torch.full((4,), float(i))) for i in range(7)]
    sizes = [len(bucket.specs) for bucket in Bucketer(3 * 16)(named)]
    assert sizes == [3, 3, 1]


def test_a_tensor_above_the_bound_travels_alone_and_uncopied() -> None:
    big = torch.arange(100.0)
    named = [("a", torch.ones(2)), ("big", big), ("b", torch.ones(2))]
    buckets = list(Bucketer(16)(named))
    assert [bucket.specs[0].name for bucket in buckets] == ["a", "big", "b"]
    assert buckets[1].data.data_ptr() == big.data_ptr()
    assert_same_bits([Bucket(buckets[1].specs, buckets[1].data)], [("big", big)])


def test_transposed_tensors_arrive_in_row_major_order() -> None:
    named = [("t", torch.arange(6.0).view(2, 3).T), ("big", torch.arange(60.0).view(6, 10).T)]
    assert_same_bits(copied(Bucketer(64), named), named)


def test_a_bucket_stays_whole_while_the_next_one_is_filled() -> None:
    bucketer = Bucketer(16)
    for _ in range(2):  # the buffers of the first stream serve the second
        stream = bucketer((f"t{i}", torch.full((4,), float(i))) for i in range(6))
        before = next(stream)
        for number, bucket in enumerate(stream):
            assert dict(before.tensors()).popitem()[1].tolist() == [float(number)] * 4
            before = bucket


def test_tensors_are_asked_for_one_bucket_ahead_at_most() -> None:
    asked = 0

    def produce() -> Iterator[tuple[str, Tensor]]:
        nonlocal asked
        for i in range(10):
            asked += 1
            yield f"t{i}", torch.zeros(4)

    stream = Bucketer(2 * 16)(produce())
    next(stream)
    assert asked == 3, "two that fit and the one that did not"


def test_an_empty_stream_has_no_bucket() -> None:
    assert list(Bucketer(16)([])) == []


def test_a_bound_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="bucket_bytes must be at least 1, got 0"):
        Bucketer(0)


def test_only_floating_point_tensors_are_cast() -> None:
    named = [("w", torch.tensor([1.0, 1 + 2**-9])), ("ids", torch.tensor([7]))]
    out = dict(cast(named, torch.bfloat16))
    assert out["w"].dtype == torch.bfloat16
    assert out["w"].tolist() == [1.0, 1.0]
    assert out["ids"].dtype == torch.int64
