"""Measures of accuracy and length against the numbers that papers print."""

from __future__ import annotations

import pytest

from megaent.evaluation.efficiency import (
    accuracy_efficiency_score,
    length_adjusted_accuracy,
    normalized_accuracy_gap,
    normalized_accuracy_gap_table1,
)


@pytest.mark.parametrize(
    ("accuracy", "length", "base_length", "printed"),
    [
        (36.7, 3634, 16927, 32.5),
        (97.1, 671, 3054, 85.7),
        (87.4, 1180, 5485, 77.4),
        (66.3, 2083, 11157, 59.8),
        (45.3, 2275, 11236, 40.5),
        (53.3, 4094, 14108, 44.9),
        (92.4, 1078, 4181, 79.6),
    ],
)
def test_l_acc_is_egrc_s_column(accuracy: float, length: int, base_length: int, printed: float) -> None:
    assert length_adjusted_accuracy(accuracy, length, base_length) == pytest.approx(printed, abs=0.11)


def test_nag_is_ceeh_s_two_columns() -> None:
    assert normalized_accuracy_gap(92.1, 91.3, 2170, 3701) == pytest.approx(-1.36, abs=0.005)
    assert normalized_accuracy_gap_table1(92.1, 91.3, 2170, 3701) == pytest.approx(-0.56, abs=0.005)


@pytest.mark.parametrize(
    ("accuracy", "length", "printed"), [(68.0, 2.8, 1.53), (60.9, 6.2, 0.51), (59.5, 4.0, 0.65)]
)
def test_aes_is_etr_s_column(accuracy: float, length: float, printed: float) -> None:
    assert accuracy_efficiency_score(accuracy, 58.1, length, 8.5) == pytest.approx(printed, abs=0.01)


def test_a_model_is_equal_to_itself() -> None:
    assert length_adjusted_accuracy(0.5, 100, 100) == 0.0
    assert normalized_accuracy_gap_table1(0.5, 0.5, 100, 100) == 0.0
    assert accuracy_efficiency_score(0.5, 0.5, 100, 100) == 0.0


def test_undefined_is_none() -> None:
    assert length_adjusted_accuracy(0.9, 101, 100) is None
    assert normalized_accuracy_gap(0.9, 0.8, 101, 100) is None
    assert normalized_accuracy_gap(0.9, 0.8, 100, 100) is None
    assert normalized_accuracy_gap(0.9, 0.0, 50, 100) is None
    assert normalized_accuracy_gap_table1(0.9, 0.0, 50, 100) is None
    assert accuracy_efficiency_score(0.9, 0.0, 50, 100) is None
    assert accuracy_efficiency_score(0.9, 0.5, 50, 0) is None
