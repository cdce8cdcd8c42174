"""Flat pieces of a tensor as boxes: together they are the elements, in order."""

from __future__ import annotations

import itertools

import pytest
import torch

from megaent.actor.optimizer_state import boxes

SHAPES = [(7,), (3, 5), (4, 1), (1, 6), (2, 3, 4), (3, 2, 2, 2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_are_the_elements_in_order_and_few(shape: tuple[int, ...]) -> None:
    whole = torch.arange(torch.Size(shape).numel()).view(shape)
    for start, stop in itertools.combinations_with_replacement(range(whole.numel() + 1), 2):
        found = list(boxes(start, stop, shape))
        parts = [
            whole[tuple(slice(at, at + length) for at, length in zip(*box, strict=True))] for box in found
        ]
        elements = torch.cat([torch.empty(0, dtype=torch.int64), *(part.flatten() for part in parts)])
        assert elements.tolist() == list(range(start, stop))
        assert len(found) <= 2 * len(shape) - 1
