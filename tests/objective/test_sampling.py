"""Which groups dynamic sampling keeps, and how its option is read."""

from __future__ import annotations

import pytest

from megaent.objective.method import DynamicSampling
from megaent.objective.sampling import dynamic_sampling, teaches


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([1, 1], False),
        ([0, 0, 0], False),
        ([1, 0], True),
        ([1], True),
        ([0.0], True),
        ([0.5, 0.5, 0.6], True),
    ],
)
def test_a_group_teaches_when_its_numbers_differ_or_it_is_alone(numbers: list[float], expected: bool) -> None:
    assert teaches(numbers) is expected


def test_the_number_of_batches_turns_it_on() -> None:
    assert dynamic_sampling(0) is None
    assert dynamic_sampling(3) == DynamicSampling(max_batches=3)
    with pytest.raises(ValueError, match=r"max_batches must be 0 \(off\) or more, got -1"):
        dynamic_sampling(-1)
