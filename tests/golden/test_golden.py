"""Worked cases of every method, computed by hand or by an independent implementation in numpy.

``pytest tests/golden --golden FILE`` runs any file of the form ``{version, cases: [{id, inputs, expected,
tol}]}``. What a case computes is found by its id: the family is the longest known dotted prefix
("sent.loss.paper.3" -> "sent.loss.paper"). Keys of ``expected`` are compared, element by element, with the
absolute tolerance of the case; everything runs in fp64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from support import golden_2026, golden_baselines, golden_five

FAMILIES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = (
    golden_baselines.FAMILIES | golden_five.FAMILIES | golden_2026.FAMILIES
)
NOT_ORDERED = {"selected", "high_cov", "low_cov", "candidates"}  # sets of token places, in any order


def family_of(case_id: str) -> str:
    """The longest known dotted prefix of a case's id; KeyError names what is known."""
    words = case_id.split(".")
    for count in range(len(words), 0, -1):
        name = ".".join(words[:count])
        if name in FAMILIES:
            return name
    raise KeyError(f"no family is a prefix of {case_id!r}; known are {', '.join(sorted(FAMILIES))}")


def differences(expected: Any, found: Any, tol: float, where: str) -> list[str]:
    """Where ``found`` is not ``expected``, one line each; nothing when it is."""
    if isinstance(expected, Mapping):
        missing = [f"{where}.{key}: nothing was computed" for key in expected if key not in found]
        present = [key for key in expected if key in found]
        return missing + [
            line for key in present for line in differences(expected[key], found[key], tol, f"{where}.{key}")
        ]
    if isinstance(expected, list):
        if not isinstance(found, (list, tuple)) or len(found) != len(expected):
            return [f"{where}: expected {expected}, got {found}"]
        if where.rpartition(".")[2] in NOT_ORDERED:
            expected, found = sorted(expected), sorted(found)
        return [
            line
            for place, (one, other) in enumerate(zip(expected, found, strict=True))
            for line in differences(one, other, tol, f"{where}[{place}]")
        ]
    if isinstance(expected, (bool, int, float)) and isinstance(found, (bool, int, float)):
        is_close = expected == found or math.isclose(expected, found, rel_tol=0.0, abs_tol=tol)
        return [] if is_close else [f"{where}: expected {expected}, got {found}, tolerance {tol}"]
    return [] if expected == found else [f"{where}: expected {expected!r}, got {found!r}"]


def test_a_worked_case(case: dict[str, Any]) -> None:
    found = FAMILIES[family_of(case["id"])](case["inputs"])
    wrong = differences(case["expected"], found, case["tol"], case["id"])
    assert not wrong, "\n".join(wrong)


def test_the_family_is_the_longest_known_prefix() -> None:
    assert family_of("entadv.1") == family_of("entadv.f0") == "entadv"
    assert family_of("sent.loss.paper.f0") == "sent.loss.paper"
    assert family_of("rfpp_baseline.adv") == "rfpp_baseline"
    with pytest.raises(KeyError, match=r"no family is a prefix of 'nobody\.1'"):
        family_of("nobody.1")


@pytest.mark.parametrize(
    ("expected", "found", "count"),
    [
        ({"a": 1.0}, {"a": 1.0 + 1e-10, "b": 5}, 0),
        ({"a": 1.0}, {"a": 1.0 + 1e-8}, 1),
        ({"a": 1.0}, {"b": 1.0}, 1),
        ({"a": [1, 2]}, {"a": [1, 2, 3]}, 1),
        ({"a": [[1, 2], [3, 4]]}, {"a": [[1, 0], [0, 4]]}, 2),
        ({"a": None}, {"a": 0.0}, 1),
        ({"a": None}, {"a": None}, 0),
        ({"a": 1.0}, {"a": float("nan")}, 1),
        ({"a": True}, {"a": False}, 1),
        ({"selected": [2, 0]}, {"selected": [0, 2]}, 0),
        ({"a": [2, 0]}, {"a": [0, 2]}, 2),
    ],
)
def test_what_counts_as_a_difference(expected: Any, found: Any, count: int) -> None:
    assert len(differences(expected, found, 1e-9, "case")) == count
