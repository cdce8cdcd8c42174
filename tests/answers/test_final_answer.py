"""Where the final answer is, in linear time, and what can be decided by looking at it."""

from __future__ import annotations

import time

import pytest

from megaent.answers.final_answer import TAIL, find_answer, plainly_equal, read_key


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("so $\\boxed{42}$.", "42"),
        ("\\boxed{1}, no: \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}} and 7", "\\frac{1}{2}"),
        ("\\boxed{\\boxed{5}}", "5"),
        ("\\boxed{ \\{1, 2\\} }", "\\{1, 2\\}"),
        ("\\boxed 7 is it", "7"),
        ("$\\boxed 7$", "7"),
        ("\\fbox{x}", "x"),
        ("\\boxedx{3} 4", "4"),
        ("\\boxed{1} then cut at \\boxed{2", None),
        ("\\boxed{}", ""),
        ("The answer is 1,234.", "1,234"),
        ("It costs $18.50.", "18.50"),
        ("from 3 to -4", "-4"),
        ("8-3 leaves", "3"),
        ("(x)-3", "3"),
        ("about 3/4", "3/4"),
        ("that is 50%", "50%"),
        ("#### 12", "12"),
        ("1,2345", "2345"),
        ("none", None),
        ("", None),
    ],
)
def test_the_answer_is_the_last_box_or_else_the_last_number(response: str, answer: str | None) -> None:
    assert find_answer(response) == answer


def test_only_the_end_of_a_long_response_is_read() -> None:
    assert find_answer("\\boxed{1}" + "x" * (2 * TAIL)) is None
    assert find_answer("9 " * TAIL + "\\boxed{1}") == "1"


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 200_000,
        "{" * 1_000_000,
        "1," * 500_000,
        "1,111" * 200_000,
        "\\boxed{" + "{" * 400_000 + "}" * 400_000 + "}",
        "-" * 1_000_000 + "7",
        "1/" * 500_000,
        "\\" * 1_000_000 + "boxed{3}",
    ],
)
def test_a_megabyte_of_anything_is_read_at_once(text: str) -> None:
    started = time.process_time()
    find_answer(text)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    ("key", "answer", "equal"),
    [
        ("42", "42", True),
        ("42", " 42.", True),
        ("42", "42.0", True),
        ("1,000", "1000", True),
        ("1000", "1{,}000", True),
        ("5", "\\$5", True),
        ("-3", "\u22123", True),
        ("50\\%", "50", True),
        ("50\\%", "0.5", True),
        ("0.5", "50%", True),
        ("50%", "50\\%", True),
        ("50\\%", "5", False),
        ("42", "43", False),
        ("42", "-42", False),
        ("x + 1", "x+1", True),
        ("0.33", "0.333", None),
        ("1/2", "0.5", None),
        ("2", "\\frac{4}{2}", None),
        ("2", "2" * 101, None),
        ("1", "1e5", None),
    ],
)
def test_plain_numbers_and_equal_texts_need_no_mathematics(key: str, answer: str, equal: bool | None) -> None:
    assert plainly_equal(key, answer) is equal


def test_keys_are_found_by_their_marks() -> None:
    assert read_key("reasons #### 5 and more\n#### 72") == "72"
    assert read_key("so $x = \\boxed{\\sqrt{2}}$ holds") == "\\sqrt{2}"
    assert read_key("$\\frac{1}{2}$") == "\\frac{1}{2}"
    assert read_key(["1", 2.0, "$x$"]) == "1, 2, $x$"


@pytest.mark.parametrize("value", [None, True, [], {}, "", "####", "\\boxed{3", "}{", "word " * 13])
def test_what_holds_no_key_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"it must be|final answer"):
        read_key(value)
