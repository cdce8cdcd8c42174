"""The paired test against every choice of signs, and against numbers worked out by hand."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest

from megaent.evaluation.paired import paired, sign_flip_p_value


@pytest.mark.parametrize(
    "eighths", [[1], [3, -1], [4, 0, -2, 5], [1, 1, 1, 1, 1, 1], [8, -8, 3, 3, -1, 0, 7, 2], [0, 0]]
)
def test_the_exact_test_counts_all_signs(eighths: list[int]) -> None:
    differences = [Fraction(value, 8) for value in eighths]
    reached = abs(sum(eighths))
    sums = [
        abs(sum(s * v for s, v in zip(signs, eighths, strict=True)))
        for signs in product([1, -1], repeat=len(eighths))
    ]
    truth = sum(value >= reached for value in sums) / len(sums)
    assert sign_flip_p_value(differences) == pytest.approx(truth, abs=1e-12)


def test_shares_of_different_denominators_lie_on_one_lattice() -> None:
    differences = [Fraction(1, 3), Fraction(1, 4), Fraction(-1, 12)]
    assert sign_flip_p_value(differences) == pytest.approx(4 / 8), (
        "±4 ±3 ±1 twelfths, 6 reached: 8, 6 both ways"
    )


def test_only_shared_prompts_count() -> None:
    half, whole = Fraction(1, 2), Fraction(1)
    told = paired({"a": whole, "b": half, "c": whole}, {"a": half, "b": half, "d": whole})
    assert told is not None
    assert (told.difference, told.prompts, told.p_value) == (0.25, 2, 1.0)
    # t(.975, 1) = 12.7062, standard error .25
    assert told.low == pytest.approx(0.25 - 12.7062 * 0.25, abs=1e-3)
    assert paired({"a": half}, {"b": half}) is None


def test_a_distribution_with_too_many_states_is_not_known() -> None:
    assert sign_flip_p_value([Fraction(1, 10_000_019), Fraction(999, 1000)]) is None
