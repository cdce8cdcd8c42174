"""Which groups dynamic sampling keeps, and how its option is read."""

from __future__ import annotations

import pytest
from support.builders import group, seen

from megaent.errors import ConfigError
from megaent.experience.pack import pack
from megaent.methods import build_method
from megaent.objective.method import DynamicSampling, Method
from megaent.objective.sampling import dynamic_sampling, informative, teaches


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
    with pytest.raises(ValueError, match="metric must be one of accuracy, shaped, got 'length'"):
        dynamic_sampling(3, "length")
    with pytest.raises(ValueError, match="metric must stay accuracy where max_batches is 0"):
        dynamic_sampling(0, "shaped")


def method_with(metric: str, *, coef: float) -> Method:
    options = {"dapo": {"metric": metric}, "linear_length": {"coef": coef, "max_length": 10}}
    return build_method(options).phases[0].method


GROUPS = (
    group(0, [1.0, 1.0], [4, 4]),  # alike in every respect
    group(1, [1.0, 1.0], [4, 6]),  # alike in grade alone
    group(2, [1.0, 0.0], [4, 6]),
    group(3, [1.0], [4]),
    group(4, [0.0, 0.0, 0.0], [4, 4, 5]),
)


def test_shaped_rewards_can_tell_what_grades_cannot() -> None:
    batch = pack(GROUPS)  # not scored
    whole = seen(batch)
    assert informative(method_with("accuracy", coef=0.1), whole) == [False, False, True, True, False]
    assert informative(method_with("shaped", coef=0.1), seen(batch)) == [False, True, True, True, True]
    assert informative(method_with("shaped", coef=0.0), seen(batch)) == [False, False, True, True, False]
    assert informative(method_with("shaped", coef=0.1), seen(pack([]))) == []


def test_rewards_that_need_the_scored_batch_are_refused() -> None:
    with pytest.raises(ConfigError, match="metric=shaped cannot be combined with EntropyTrend"):
        build_method({"dapo": {"metric": "shaped"}, "etr": {}})
    build_method({"dapo": {}, "etr": {}})
