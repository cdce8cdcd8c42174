"""The answer key of a data row, and which rows have none."""

from __future__ import annotations

import pytest

from megaent.answers.key import read_key


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("so 5 and more\n#### 72", "72"),
        ("3 + 40 = <<3+40=43>>43\n#### 1,043", "1,043"),
        ("so $x = \\boxed{\\sqrt{2}}$ holds", "\\sqrt{2}"),
        ("$\\frac{1}{2}$", "\\frac{1}{2}"),
        (["1", 2.0, "$x$"], "1, 2, $x$"),
        ("#### Step 1\nAdd them.\n\nHence $\\boxed{7}$.", "7"),
        ("Adding gives $\\boxed{7}$.\n\n#### Remark\nThe same works for n > 3.", "7"),
        ("So \\(\\boxed{2}\\) or \\(\\boxed{-2}\\).", "2, -2"),
        ("\\boxed{1}, which is wrong. The right one: \\boxed{3}", "3"),
        ("Two and three make five.\nThus the answer is $5$.", "5"),
        ("Thus the answer is 5.", "5"),
        ("word " * 20 + "The answer is: \\frac{1}{2}", "\\frac{1}{2}"),
        ("All options are correct", "All options are correct"),
        ("\\begin{pmatrix}\n1 \\\\\n2\n\\end{pmatrix}", "\\begin{pmatrix}\n1 \\\\\n2\n\\end{pmatrix}"),
        (1e-7, "1e-07"),
        (27.0, "27"),
        (-0.5, "-0.5"),
        (3, "3"),
    ],
)
def test_a_key_is_what_its_author_meant(value: object, key: str) -> None:
    assert read_key(value) == key


@pytest.mark.parametrize("value", [None, True, [], {}, "", "####", "\\boxed{3", "}{", "word " * 13, " $ $ "])
def test_what_holds_no_key_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"it must be|final answer"):
        read_key(value)


@pytest.mark.parametrize(
    "value",
    [
        "proof",
        "Proof.",
        "not found",
        "notfound",
        "N/A",
        "\\text{N/A}",
        "see solution",
        "\\boxed{\\text{proof}}",
        "NaN",
        "null",
    ],
)
def test_a_note_that_there_is_no_answer_is_no_key(value: str) -> None:
    with pytest.raises(ValueError, match="which is no answer"):
        read_key(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_no_key(value: float) -> None:
    with pytest.raises(ValueError, match="no number"):
        read_key(value)


@pytest.mark.parametrize(
    "value",
    [
        "5\n\nBecause 2 + 3",
        "Add them. Therefore 5 apples.",
        "word " * 20 + "The answer is",
        "word " * 20 + "5",
        "The answer is $x$ = 5",
        "Answer: $x=1$; $x=2$",
        "(a) The answer is 3. (b) The answer is 4.",
        "Answer: $2$ feet, $3$ inches",
        "The answer is $5$ and 3",
        "The answer is St. Louis",
        "The answer is $3 and $4",
    ],
)
def test_an_explanation_that_states_nothing_is_no_key(value: str) -> None:
    with pytest.raises(ValueError, match=r"marks no final answer; mark it by"):
        read_key(value)


def test_an_object_is_no_key() -> None:
    with pytest.raises(ValueError, match=r"an object with target; name one by data\.answer_key"):
        read_key({"target": ["5"]})
    with pytest.raises(ValueError, match="a JSON object"):
        read_key('{"inputs": ["1"], "outputs": ["2"]}')
    assert read_key('{"a", "b"}') == '{"a", "b"}'


def test_half_a_character_is_no_key() -> None:
    with pytest.raises(ValueError, match="surrogate"):
        read_key("x\ud800")


def test_a_heading_below_four_hashes_is_no_key() -> None:
    with pytest.raises(ValueError, match=r"heading.*boxed.*data\.answer_key"):
        read_key("#### Remark\nFor $n = 7$ it fails.")
