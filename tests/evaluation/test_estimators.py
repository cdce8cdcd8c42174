"""Estimators against the mean over every subset of responses, which is what they are for."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations, product

import pytest

from megaent.evaluation.estimators import ESTIMATORS, Answers, estimate

ANSWERS = [  # what was read, whether it is right
    [],
    [("7", True), ("7", True), ("5", False), ("5", False), ("6", False)],
    [("7", True), ("1/2", True), ("", False), ("", False), ("5", False), ("5", False)],
    [("a", False), ("b", False), ("c", False), ("7", True)],
    [("", False), ("", False), ("", False)],
    [("7", True)] * 4,
    [("7", True), ("7", False), ("7", False), ("8", False), ("9", False), ("9", False), ("7", True)],
]


def answers_of(pairs: list[tuple[str, bool]]) -> Answers:
    return Answers(
        correct=tuple(right for _, right in pairs),
        reward=tuple(right - 0.25 * (not answer) for answer, right in pairs),
        answer=tuple(answer for answer, _ in pairs),
    )


def majority(subset: tuple[tuple[str, bool], ...]) -> Fraction:
    votes = Counter("right" if right else answer for answer, right in subset if right or answer)
    most = max(votes.values(), default=0)
    winners = [answer for answer, count in votes.items() if count == most]
    return Fraction(winners.count("right"), len(winners)) if winners else Fraction(0)


OF_A_SUBSET: dict[str, Callable[[tuple[tuple[str, bool], ...]], float | Fraction]] = {
    "avg@k": lambda subset: Fraction(sum(right for _, right in subset), len(subset)),
    "pass@k": lambda subset: any(right for _, right in subset),
    "maj@k": majority,
    "pass^k": lambda subset: all(right for _, right in subset),
    "worst@k": lambda subset: min(right - 0.25 * (not answer) for answer, right in subset),
    "std@k": lambda subset: statistics.pstdev(float(right) for _, right in subset),
}


@pytest.mark.parametrize("name", OF_A_SUBSET)
@pytest.mark.parametrize("pairs", ANSWERS[1:], ids=range(1, len(ANSWERS)))
def test_an_estimate_is_the_mean_over_all_subsets(name: str, pairs: list[tuple[str, bool]]) -> None:
    for k in range(1, len(pairs) + 1):
        subsets = [OF_A_SUBSET[name](subset) for subset in combinations(pairs, k)]
        truth = sum(map(float, subsets)) / len(subsets)
        assert ESTIMATORS[name](answers_of(pairs), k) == pytest.approx(truth, abs=1e-12), k


@pytest.mark.parametrize("name", ["avg@k", "pass@k", "pass^k"])
def test_an_estimate_is_right_on_average(name: str) -> None:
    """Unbiased: over all draws of 5 responses, weighted by their chance, it is what 2 new ones would give."""
    chance = Fraction(1, 3)
    truth = {"avg@k": chance, "pass@k": 1 - (1 - chance) ** 2, "pass^k": chance**2}[name]
    mean = 0.0
    for drawn in product([True, False], repeat=5):
        weight = float(chance ** sum(drawn) * (1 - chance) ** (5 - sum(drawn)))
        mean += weight * ESTIMATORS[name](answers_of([("7" if right else "5", right) for right in drawn]), 2)
    assert mean == pytest.approx(float(truth), abs=1e-12)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_fewer_than_k_responses_are_not_known(name: str) -> None:
    solved, unsolved = answers_of([("7", True)] * 3), answers_of([("5", False)] * 3)
    told = estimate(ESTIMATORS[name], [solved, unsolved], 4)
    assert (told.value, told.low, told.high, told.known, told.prompts) == (None, None, None, 0, 2)
    told = estimate(ESTIMATORS[name], [solved, unsolved, answers_of([("7", True)] * 4)], 4)
    assert (told.value, told.known, told.prompts) == (0.0 if name == "std@k" else 1.0, 1, 3)


def test_the_interval_takes_a_prompt_for_one_observation() -> None:
    """Prompts of shares 1, 0, 1, 0: mean 1/2, standard error sqrt(1/3) / 2, t(.975, 3) = 3.182446."""
    prompts = [answers_of([("7", right)] * 8) for right in (True, False, True, False)]
    told = estimate(ESTIMATORS["avg@k"], prompts, 8)
    assert told.value == 0.5
    assert told.low == 0.0
    assert told.high == 1.0
    many = estimate(ESTIMATORS["avg@k"], prompts * 25, 8)
    half = 1.9842169515 * statistics.stdev([1.0, 0.0, 1.0, 0.0] * 25) / 10
    assert many.low == pytest.approx(0.5 - half, abs=1e-9)
    assert many.high == pytest.approx(0.5 + half, abs=1e-9)


@pytest.mark.parametrize(
    ("reward", "low", "high"), [(1.1, 1.1 * 0.757506, 1.1), (-0.5, -0.5, -0.5 + 1.5 * 0.242494)]
)
def test_a_reward_outside_0_to_1_has_an_interval_around_it(reward: float, low: float, high: float) -> None:
    """Wilson's of 12 of 12 is 0.757506 to 1, here of the range from the least to the greatest reward."""
    prompt = Answers(correct=(True, True), reward=(reward, reward), answer=("7", "7"))
    told = estimate(ESTIMATORS["worst@k"], [prompt] * 12, 2)
    assert told.value == reward
    assert (told.low, told.high) == pytest.approx((low, high), abs=1e-6)
    mixed = estimate(ESTIMATORS["worst@k"], [prompt] * 12 + [answers_of([("7", True)] * 2)], 2)
    assert mixed.low is not None
    assert mixed.value is not None
    assert mixed.high is not None
    assert mixed.low < mixed.value < mixed.high


def test_a_majority_of_64_distinct_answers_is_counted_in_time() -> None:
    pairs = [("7", True)] * 2 + [(str(number), False) for number in range(100, 162)]
    assert ESTIMATORS["maj@k"](answers_of(pairs), 64) == 1.0
    assert ESTIMATORS["maj@k"](answers_of(pairs), 1) == pytest.approx(2 / 64)
