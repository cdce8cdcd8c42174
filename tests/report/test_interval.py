"""Student's interval against printed tables and a computation by hand."""

from __future__ import annotations

import math

import pytest

from megaent.report.interval import mean_of, student_quantile, student_two_sided


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    # From printed tables of t(0.975).
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423), (120, 1.9799)],
)
def test_student_quantiles_are_the_printed_ones(freedom: int, quantile: float) -> None:
    assert student_quantile(0.975, freedom) == pytest.approx(quantile, abs=5e-5)


def test_student_quantile_approaches_the_normal_one() -> None:
    assert student_quantile(0.975, 100_001) == pytest.approx(1.959964, abs=3e-5)


def test_the_interval_of_three_seeds_by_hand() -> None:
    # 0.2, 0.4, 0.9: mean 0.5, variance (0.09 + 0.01 + 0.16) / 2 = 0.13, t(0.975, 2) = 4.302653.
    mean = mean_of([0.2, 0.4, 0.9])
    assert mean.value == pytest.approx(0.5)
    assert mean.half_width == pytest.approx(4.302653 * math.sqrt(0.13 / 3), rel=1e-6)
    assert mean.count == 3


def test_one_observation_has_no_interval() -> None:
    assert mean_of([0.25]) == (0.25, None, 1)


@pytest.mark.parametrize(
    ("t", "freedom", "p"),
    # 2 * scipy.stats.t.sf(|t|, freedom), scipy 1.17.
    [
        (0.0, 3, 1.0),
        (1.5, 1, 0.3743340836219977),
        (2.5, 4, 0.06676654481198814),
        (-3.1, 19, 0.005895120947890749),
    ],
)
def test_the_p_value_is_scipys(t: float, freedom: int, p: float) -> None:
    assert student_two_sided(t, freedom) == pytest.approx(p, rel=1e-12)
