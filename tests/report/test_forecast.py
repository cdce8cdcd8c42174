"""A collapse foretold, against curves whose crossing is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from megaent.report.alarms import alarms
from megaent.report.forecast import HORIZON, PATIENCE, TREND, falls_soon, reaches


def decay(rate: float, steps: int, start: float = 1.0) -> list[float]:
    return [start * math.exp(-rate * step) for step in range(steps)]


@pytest.mark.parametrize("ahead", [1, 7, 20])
def test_an_exponential_reaches_its_limit_when_it_does(ahead: int) -> None:
    values = decay(0.05, 30)
    limit = math.exp(-0.05 * (29 + ahead))
    assert reaches(values, limit, ahead + 1)
    assert not reaches(values, limit, ahead - 1)


def test_the_line_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    values = np.exp(-0.03 * np.arange(30) + 0.3 * rng.standard_normal(30))
    slope, at_0 = np.polyfit(np.arange(30), np.log(values), 1)
    crossing = math.exp(at_0 + slope * (29 + 10))  # ten steps after the last
    assert reaches(list(values), crossing * 1.001, 10)
    assert not reaches(list(values), crossing * 0.999, 10)


def test_what_rises_is_flat_or_is_below_already_is_no_forecast() -> None:
    assert not reaches(decay(-0.05, 30), 0.5, 20)
    assert not reaches([1.0] * 30, 0.5, 20)
    assert not reaches(decay(0.05, 30), 0.9, 20)
    assert not reaches([0.0] * 30, 0.0, 20), "an entropy of 0 is below every limit"


def test_every_window_must_say_so() -> None:
    falling = decay(0.05, TREND)
    limit = falling[-1] * 0.9
    assert falls_soon(falling, limit)
    assert not falls_soon([*falling[:-1], 60.0], limit), "the last window has an end that rises"


def test_the_alarm_rings_before_the_collapse_and_once() -> None:
    entropy = decay(0.03, 80)
    records = [{"step": step, "entropy/mean": value} for step, value in enumerate(entropy, start=1)]
    found = {alarm.name: alarm.step for alarm in alarms(records)}
    crossing = 1 - math.log(0.2 * sum(entropy[:5]) / 5) / 0.03  # the step of a fifth of the first five's mean
    # The oldest of three windows ends two steps before the present one.
    assert found["entropy collapse ahead"] == math.ceil(crossing - HORIZON + PATIENCE - 1)
    assert found["entropy collapse"] == math.ceil(crossing) + 2, "of the mean of five steps"
    assert [alarm.name for alarm in alarms(records)].count("entropy collapse ahead") == 1


def test_a_run_without_entropies_is_told_nothing() -> None:
    records = [{"step": step, "loss": 1.0} for step in range(1, 60)]
    assert alarms(records) == []
