"""What a program is shown, and what it should answer, read from the forms of public data sets."""

from __future__ import annotations

import json

import pytest

from megaent.sandbox.tests import CodeTests, read_tests, stored_tests
from megaent.sandbox.values import plain, value_of


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"inputs": ["1\n"], "outputs": ["2\n"]}, CodeTests(inputs=(("1\n", "2\n"),))),
        ('{"inputs": [["1", "2"]], "outputs": [["3"]]}', CodeTests(inputs=(("1\n2", "3"),))),
        ([{"input": "1", "output": "2", "testtype": "stdin"}], CodeTests(inputs=(("1", "2"),))),
        (
            {"fn_name": "add", "inputs": [[1, [2]]], "outputs": [[3]]},
            CodeTests(
                calls=(("(Solution().add if 'Solution' in globals() else add)(1, [2])", [3]),),
                takes_tuples=True,
            ),
        ),
        (
            [{"input": '1\n"a"', "output": "true", "fn_name": "f"}],
            CodeTests(
                calls=(("(Solution().f if 'Solution' in globals() else f)(1, 'a')", True),), takes_tuples=True
            ),
        ),
        (["assert f(1) == (2, {3})"], CodeTests(calls=(("f(1)", (2, {3})),))),
        ("assert -1 == f(1)\nassert not g([2])\nassert h()", None),
    ],
)
def test_forms(given: object, expected: CodeTests | None) -> None:
    expected = expected or CodeTests(calls=(("f(1)", -1), ("bool(g([2]))", False), ("bool(h())", True)))
    assert stored_tests(read_tests(given)) == expected


@pytest.mark.parametrize(
    "given",
    [
        "assert f(1) == g(2)",
        "assert math.isclose(f(1), 2.5)",
        "assert f(1) > 2",
        "x = 1",
        "assert f(",
        "(" * 500,
        "",
        [],
        {"inputs": ["1"], "outputs": []},
        {"inputs": [1], "outputs": [2]},
        {"fn_name": "f()", "inputs": [[1]], "outputs": [2]},
        {"fn_name": "f", "inputs": [1], "outputs": [2]},
        [{"input": "1", "output": "2", "fn_name": "f"}, {"input": "1", "output": "2"}],
        [{"input": "1"}],
        7,
    ],
)
def test_what_cannot_be_told_apart_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_tests(given)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -(10**40),
        "é",
        0.1,
        float("inf"),
        1j,
        b"\0",
        [1, (2, [])],
        {1: {2.5: ()}},
        {1, "a"},
        {"float": 1},
    ],
)
def test_values_cross_as_they_are(value: object) -> None:
    crossed = value_of(json.loads(json.dumps(plain(value))))
    assert crossed == value
    assert type(crossed) is type(value)


def test_what_is_no_plain_value_does_not_cross() -> None:
    with pytest.raises(TypeError, match="object is no plain value"):
        plain([object()])
    for odd in ({"a": 1}, {}, {"float": 1, "list": []}, [1]):
        with pytest.raises((ValueError, KeyError)):
            value_of(odd)
