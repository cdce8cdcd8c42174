"""What holds of any numbers: two notations of one are equal, of two are not, and no text is too much."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaent.answers.compare import canonical, equal
from megaent.answers.find import find_answer
from megaent.answers.key import read_key

# Machines are shared, and the first call of each fills caches.
unhurried = settings(deadline=None)
whole = st.integers(-(10**9), 10**9)
positive = st.integers(1, 10**6)
SIGNS = st.text(st.sampled_from("0123456789abxyeiEC+-*/^_=<>()[]{}\\|,.:;!'% $&~\n"), max_size=60)
_PIECES = (
    "\\frac \\sqrt { } ( ) [ ] 1 2.5 x \\pi ^ _ \\text{cm} \\% , = < \\cup \\pm - \\infty ! \\sin \\log "
    "\\binom & \\\\ \\begin{pmatrix} \\end{pmatrix} \\lfloor \\rfloor 0 e i \\circ or 9 77 \\overline +"
)
PIECES = st.lists(st.sampled_from([*_PIECES.split(" "), " "]), max_size=14).map("".join)


def fraction_notations(above: int, below: int) -> list[str]:
    sign, size = "-" if above < 0 else "", abs(above)
    found = [
        f"{sign}\\frac{{{size}}}{{{below}}}",
        f"\\dfrac{{{above}}}{{{below}}}",
        f"{above}/{below}",
        f"{sign}\\frac{{{3 * size}}}{{{3 * below}}}",
        f"x = {above}/{below}",
        f"{sign}{size}\\cdot\\frac{{1}}{{{below}}}",
    ]
    if size > below and size % below:
        found.append(f"{sign}{size // below} {size % below}/{below}")
        found.append(f"{sign}{size // below}\\frac{{{size % below}}}{{{below}}}")
    if above % below == 0:
        found.append(f"{above // below:,}")
    return found


@unhurried
@given(whole, positive, st.data())
def test_a_fraction_in_two_notations_is_equal(above: int, below: int, data: st.DataObject) -> None:
    notations = fraction_notations(above, below)
    key, answer = data.draw(st.sampled_from(notations)), data.draw(st.sampled_from(notations))
    assert equal(read_key(key), answer) is True


@unhurried
@given(whole, positive, whole, positive, st.data())
def test_two_fractions_are_different(a: int, b: int, c: int, d: int, data: st.DataObject) -> None:
    if Fraction(a, b) != Fraction(c, d):
        key = data.draw(st.sampled_from(fraction_notations(a, b)))
        answer = data.draw(st.sampled_from(fraction_notations(c, d)))
        assert equal(read_key(key), answer) is False


@unhurried
@given(whole, positive, st.sampled_from([-1, 1]))
def test_a_fraction_is_none_of_its_neighbours(above: int, below: int, step: int) -> None:
    key = f"\\frac{{{above}}}{{{below}}}"
    assert equal(key, f"\\frac{{{above + step}}}{{{below}}}") is False
    assert equal(key, f"\\frac{{{above * 10**30 + step}}}{{{below * 10**30}}}") is False


@unhurried
@given(st.decimals(-(10**6), 10**6, places=4, allow_nan=False), st.integers(-30, 30))
def test_a_decimal_in_any_notation_is_equal(value: Decimal, exponent: int) -> None:
    key = f"{value}e{exponent}"
    exact = Fraction(str(value)) * Fraction(10) ** exponent
    fraction = f"{exact.numerator}/{exact.denominator}"
    for answer in (f"{value} \\times 10^{{{exponent}}}", f"{value}E{exponent:+d}", fraction):
        assert equal(key, answer) is True
    assert equal(key, f"{value}e{exponent + 1}") is (value == 0)


@unhurried
@given(st.integers(2, 40), st.integers(2, 40))
def test_roots_are_compared_exactly(a: int, b: int) -> None:
    assert equal(f"\\sqrt{{{a * a * b}}}", f"{a}\\sqrt{{{b}}}") is True
    assert equal(f"\\sqrt{{{a * a * b}}}", f"\\sqrt{{{a * a * b + 1}}}") is False


@unhurried
@given(st.lists(whole, min_size=2, max_size=5, unique=True), st.randoms(use_true_random=False))
def test_a_list_is_equal_in_any_order_and_a_point_in_its_own(items: list[int], random: Random) -> None:
    shuffled = items.copy()
    random.shuffle(shuffled)
    listed, mixed = ", ".join(map(str, items)), ", ".join(map(str, shuffled))
    assert equal(listed, mixed) is True
    assert equal(f"({listed})", f"({mixed})") is (items == shuffled)
    assert equal(listed, ", ".join(map(str, items[1:]))) is False


@unhurried
@given(whole, positive)
def test_a_percentage_is_a_hundredth_of_its_number(above: int, more: int) -> None:
    value = Fraction(above, 100)
    assert equal(f"{above}\\%", f"{value.numerator}/{value.denominator}") is True
    assert equal(f"{above}\\%", f"{above + more}\\%") is False


@pytest.mark.parametrize("texts", [SIGNS, PIECES], ids=["signs", "pieces"])
def test_no_text_is_too_much(texts: st.SearchStrategy[str]) -> None:
    @settings(unhurried, max_examples=400)
    @given(texts, texts)
    def check(key: str, answer: str) -> None:
        assert equal(key, answer) in (True, False, None)
        assert isinstance(canonical(answer), str)
        find_answer(f"The answer is {answer}")

    check()


@pytest.mark.parametrize(
    "text", ["-" * 990 + "5", "x" * 990, "1/" * 490 + "1", "x^2+" * 240 + "1", "(" * 400 + "1"]
)
def test_a_long_chain_is_refused_before_it_is_walked(text: str) -> None:
    assert equal("5", text) is not True
    assert equal(text, "5") is not True
    assert equal(text, text) is True
    assert isinstance(canonical(text), str)
