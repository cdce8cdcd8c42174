"""A changed tensor is seen whatever changed in it; an unchanged one is left out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from megaent.errors import EngineError
from megaent.sync.delta import Delta, digest, fingerprint

MASK = (1 << 64) - 1


def digest_word_by_word(data: bytes, chunk_words: int = 1 << 18) -> int:
    """The definition in unbounded integers."""
    padded = data + bytes(-len(data) % 8)
    words = [int.from_bytes(padded[i : i + 8], "little") for i in range(0, len(padded), 8)]
    folded = len(data)
    for start in range(0, len(words), chunk_words):
        total = 0
        for place, word in enumerate(words[start : start + chunk_words]):
            z = (word + (place + 1) * 0x9E3779B97F4A7C15) & MASK
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
            total += z ^ (z >> 31)
        # The sum reaches the fold as a signed number, which is the same modulo 2^64.
        folded = (folded * 0x100000001B3 + total) & MASK
    return folded


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 1000, (1 << 18) * 8 + 24])
def test_the_digest_is_what_its_definition_says(size: int) -> None:
    raw = torch.randint(0, 256, (size,), generator=torch.Generator().manual_seed(size), dtype=torch.uint8)
    assert digest(raw) == digest_word_by_word(raw.numpy().tobytes())


def test_every_single_bit_counts() -> None:
    tensor = torch.randn(9, generator=torch.Generator().manual_seed(0))
    found = {digest(tensor)}
    raw = tensor.view(torch.uint8)
    for place in range(raw.numel()):
        for bit in range(8):
            raw[place] ^= 1 << bit
            found.add(digest(tensor))
            raw[place] ^= 1 << bit
    assert len(found) == 1 + 36 * 8


def test_two_signs_that_change_together_are_seen() -> None:
    tensor = torch.randn(64, generator=torch.Generator().manual_seed(0))
    found = {digest(tensor)}
    for first in range(64):
        for second in range(first):
            changed = tensor.clone()
            changed[first] *= -1
            changed[second] *= -1
            found.add(digest(changed))
    assert len(found) == 1 + 64 * 63 // 2


def test_the_order_of_large_parts_counts() -> None:
    part = torch.randn(1 << 19, generator=torch.Generator().manual_seed(0))
    other = torch.randn(1 << 19, generator=torch.Generator().manual_seed(1))
    assert digest(torch.cat([part, other])) != digest(torch.cat([other, part]))


def test_a_view_that_begins_anywhere_has_the_digest_of_its_copy() -> None:
    tensor = torch.arange(40.0)
    for start in range(3):
        assert digest(tensor[start:]) == digest(tensor[start:].clone())
    assert digest(tensor.view(5, 8).T) == digest(
        tensor.view(5, 8).T.clone(memory_format=torch.contiguous_format)
    )


def test_equal_bytes_of_another_type_or_shape_are_another_tensor() -> None:
    tensor = torch.zeros(4)
    assert (
        len({fingerprint(tensor), fingerprint(tensor.view(2, 2)), fingerprint(tensor.view(torch.int32))}) == 3
    )


# ---------------------------------------------------------------- what is sent


def model(**changes: float) -> list[tuple[str, Tensor]]:
    return [(name, torch.full((3,), changes.get(name, 1.0))) for name in ("a", "b", "c")]


def sent(delta: Delta, named: list[tuple[str, Tensor]]) -> list[str]:
    return [name for name, _ in delta.changed(named)]


def test_only_what_changed_since_the_last_commit_is_sent() -> None:
    delta = Delta()
    assert sent(delta, model()) == ["a", "b", "c"]
    delta.commit()
    assert sent(delta, model()) == []
    assert delta.num_skipped == 3
    delta.commit()
    assert sent(delta, model(b=2.0)) == ["b"]
    assert delta.num_skipped == 2


def test_a_publication_that_failed_is_not_remembered() -> None:
    delta = Delta()
    sent(delta, model())
    delta.commit()
    assert sent(delta, model(b=2.0)) == ["b"]
    assert sent(delta, model(b=2.0)) == ["b"], "nobody said that b had arrived"


def test_after_forgetting_everything_is_sent() -> None:
    delta = Delta()
    sent(delta, model())
    delta.commit()
    delta.forget()
    assert sent(delta, model()) == ["a", "b", "c"]


def test_a_tensor_that_is_not_published_any_more_is_an_error() -> None:
    delta = Delta()
    sent(delta, model())
    delta.commit()
    sent(delta, model()[:2])
    with pytest.raises(EngineError, match="c was published before and is missing now"):
        delta.commit()
