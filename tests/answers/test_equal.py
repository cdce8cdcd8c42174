"""Whether an answer says the same as its key: values checked by hand, each beside its near misses."""

from __future__ import annotations

import pytest

from megaent.answers import number, value
from megaent.answers.compare import canonical, equal

# One line each: what the key is, then what says the same, then what does not.
CASES: dict[str, tuple[str, str]] = {
    "57": (
        r"57. | 57.0 | +57 | 057 | \text{57} | x = 57 | 57 = x | 3 \cdot 19 | 3 \cdot 19 = 57 | 57 apples | \{57\} | \frac{114}{2}",
        r"-57 | 5.7 | 5 7 | 58 = 57 | x + 2 = 57 | 2x = 57 | \text{anything} = 57 | 57, 58 | 57 \text{ or } 58 | \pm 57 | 57x | 57i"
        r" | \ge 57 | \ne 57 | 57\% | 57? | 57 (or 58) | between 56 and 58 | 57!",
    ),
    "7654321": (
        r"7,654,321 | 7{,}654{,}321 | 7,\!654,\!321 | 7\,654\,321 | 7~654~321 | 7 654 321 | 7.654321 \times 10^6",
        r"7,654 | 7,654,322 | 76,54,321 | 7,654,32",
    ),
    r"\frac{5}{8}": (
        r"5/8 | \tfrac58 | \dfrac{10}{16} | 0.625 | .625 | 62.5\% | 5 \div 8 | 5:8 | \frac{1}{2}+\frac{1}{8} | \frac{5}{8}\text{ cups} | \nicefrac{5}{8} | {5 \over 8} | \\frac{5}{8}",
        r"\frac{8}{5} | -\frac{5}{8} | 0.62 | 0.63 | \ge \frac{5}{8} | \frac{5}{9} | 8:5",
    ),
    r"-\frac{7}{3}": (
        "\\frac{-7}{3} | \\frac{7}{-3} | -2\\frac{1}{3} | -7/3 | \u22127/3 | -2.\\overline{3}",
        r"\frac{7}{3} | -2.33 | -2.3333333333 | 2\frac{1}{3}",
    ),
    r"3\frac{1}{4}": (
        r"\frac{13}{4} | 3 1/4 | 3 \frac14 | 3.25 | 3 + \frac{1}{4}",
        r"\frac{3}{4} | 3 | 31/4 | 3.2",
    ),
    "2 1/2": (r"2.5 | \frac52", "2 | 21/2 | 1/2"),
    "0.35": (r".35 | 0.350 | 35\% | \frac{7}{20} | 3.5 \times 10^{-1} | 3.5e-1", "0.36 | 0.3 | 0,35 | 35"),
    "6.4e23": (
        "6.4 \\times 10^{23} | 6.4\\cdot10^{23} | 6.4E23 | 64 \\times 10^{22} | 6.4*10^23 | 6.4 x 10^23 | 6.4\u00d710\u00b2\u00b3",
        r"6.4 \times 10^{22} | 6.4 | 6.5e23 | 6.4e-23",
    ),
    "2.5e-8": (r"2.5 \times 10^{-8} | 0.000000025 | 2.5E-08", r"2.5e8 | 2.5 \times 10^{8} | 0"),
    "0.0000213": (r"2.13 \times 10^{-5} | 2.13e-5", "0.0000214 | 0.000021 | 0"),
    "0.0000001": ("1e-7", "0.0000002 | 0 | 0.0"),
    r"\frac{1}{3^{60}}": ("3^{-60}", r"\frac{1}{3^{61}} | 0"),
    "e^{-44}": (r"\frac{1}{e^{44}}", "e^{-45} | 0"),
    "0.333333": ("1/3 | 0.3333333", "0.33 | 1/4"),
    "1/3": (r"0.\overline{3} | 0.\bar{3} | 33.\overline{3}\%", "0.333333 | 0.3333333333"),
    "1234567.8": ("1234567.80", "1234567.9"),
    r"5\sqrt{7}": (
        "5\\cdot\\sqrt{7} | 5*sqrt(7) | 5\u221a7 | 5\\sqrt7 | \\sqrt{175} | 5\\cdot 7^{1/2} | 5\\sqrt{7}.",
        r"7\sqrt{5} | 13.2288 | 5",
    ),
    r"\frac{\pi}{3}": ("\\pi/3 | \\frac13\\pi | \u03c0/3", r"1.0472 | 60^\circ | \frac{3}{\pi}"),
    r"18\pi": ("18*pi | 18 pi | 18\u03c0 | 18\\cdot\\pi", r"18 | 56.5 | 18\pi^2"),
    r"45^\circ": (
        "45\u00b0 | 45 | 45 degrees | 45\\text{ degrees} | 45^{\\circ}.",
        r"54^\circ | \frac{\pi}{4}",
    ),
    "(3,-4)": (
        r"(3, -4) | (3,~-4) | \left(3,-4\right) | (x,y) = (3,-4) | \langle 3,-4\rangle | (3.0,\,-4).",
        r"(-4,3) | (3,4) | [3,-4] | \{3,-4\} | 3 | (3,-4,0) | (3,-4]",
    ),
    "(2,000)": ("2000 | 2,000", "(2,0)"),
    "[-2,6)": (
        r"-2 \le x < 6 | [-2,\,6) | x \in [-2,6) | 6 > x \ge -2",
        "[-2,6] | (-2,6) | -2 < x < 6 | [6,-2)",
    ),
    r"(-\infty, 1) \cup (4, \infty)": (
        "(4,\\infty)\\cup(-\\infty,1) | (-\u221e,1)\u222a(4,+\u221e) | x<1 \\text{ or } x>4 | x > 4, x < 1",
        r"(-\infty,1) | (-\infty,1]\cup(4,\infty) | 1 < x < 4",
    ),
    r"(-\infty,\infty)": (r"\mathbb{R} | \text{all real numbers}", r"(0,\infty)"),
    "2,-5": (
        r"-5, 2 | 2 \text{ and } -5 | \{2,-5\} | x = 2 \text{ or } x = -5 | 2, -5. | x = 2, -5",
        "2 | 2,5 | 2,-5,0",
    ),
    "A, C, F": (r"F, A, C | \text{A, C, F}", "A, C | A, C, G"),
    r"8 \pm 2\sqrt{3}": (r"8+2\sqrt3, 8-2\sqrt3 | x = 8 \pm 2\sqrt{3}", r"8+2\sqrt{3} | 8"),
    r"\pm 7": (r"7, -7 | -7 \text{ and } 7", "7 | -7"),
    "8t + 20": ("20+8t | 4(2t+5) | 8t+20. | f(t) = 8t + 20", "8t | 8x + 20 | 8t + 20 = 0 | 20t + 8"),
    "4t": (r"4 t | t \cdot 4", "4 | t | 4T | 4s"),
    "6m": (r"6 m | m \cdot 6", "6"),
    "b + c + d": ("d + c + b", "b + c | b + c - d | bcd"),
    r"\lfloor\frac{2n-1}{5}\rfloor": (
        r"\lfloor (2n-1)/5 \rfloor",
        r"\lfloor\frac{2m-1}{5}\rfloor | \lfloor\frac{2n}{5}\rfloor | \frac{2n-1}{5}",
    ),
    r"\binom{2n}{n}": (r"\frac{(2n)!}{(n!)^2}", r"\binom{2n}{2} | 2^n"),
    r"\cot x": (r"\frac{\cos x}{\sin x} | \frac{1}{\tan x}", r"\tan x | \cot y | \cot"),
    "y = 4x + 1": ("4x+1 | y = 1 + 4x | 4x - y + 1 = 0", "y = x + 4 | x = 4y + 1 | 4x - y = 0"),
    "x=8": ("8 | x = 8 | 8 = x", "x=9 | y=8 | 2x = 16"),
    "3x+4y-9=0": (r"y=-\frac{3}{4}x+\frac{9}{4} | 6x+8y=18", "3x+4y+9=0 | 3x+4y-9"),
    "D=(0,5)": ("(0,5)", "D=(0,5.5)"),
    r"\text{(B)}": (
        r"B | (B) | \text{B} | \textbf{(B)} | B. | (b) | \text{(B) } 12",
        "C | A, B | B or C | (A)",
    ),
    "3142_7": (
        r"3142_{7} | 3142_{\text{7}} | 3142_{\text{seven}} | (3142)_7 | 3142 | 3142 base 7",
        "3142_8 | 3143_7 | 3142_{10}",
    ),
    r"\$24.50": (r"24.5 | \$24.50 | 24.50 dollars | 2450 cents", r"\$25.40 | 24.50 cents | 24.50 euros"),
    r"23\%": (r"23 | 23% | 23 percent | 0.23 | \frac{23}{100}", r"0.23\% | 2.3 | 2300\%"),
    r"50\%": (r"\frac12 | 0.5 | 50", r"5\% | 0.5\%"),
    "5": (r"5\text{ cm} | 5 dollars", r"5\% | 0.05\% | 12_4"),
    "5 cm": (r"5 | 5\text{ cm} | 0.05 m | 50 mm", r"5 m | 5 kg | 5\text{ cm}^2"),
    r"30\text{ miles}": (
        r"30 | 30 mi | 30\,\mathrm{miles}",
        r"30\text{ km} | 31\text{ miles} | 30\text{ apples}",
    ),
    r"24\mbox{ cm}^2": (r"24\text{ square centimeters} | 24 | 24\text{ sq. cm}", r"24\text{ cm}^3"),
    "3:20": ("3 : 20", "20:3 | 2:20"),
    r"\begin{pmatrix} 5 & 6 \\ 7 & 8 \end{pmatrix}": (
        r"\begin{bmatrix}5&6\\7&8\end{bmatrix} | \left(\begin{array}{cc}5&6\\7&8\end{array}\right) | \begin{pmatrix}5&6\\[2pt]7&8\end{pmatrix} | [[5,6],[7,8]]",
        r"\begin{pmatrix}5&7\\6&8\end{pmatrix} | \begin{pmatrix}5&6&7&8\end{pmatrix} | 5, 6, 7, 8 | [[5,7],[6,8]]",
    ),
    "7 - 2i": (r"-2i + 7 | 7-2 i. | 7 - 2\mathrm{i}", "7+2i | 2-7i | 7"),
    "-1": (r"e^{i\pi} | i^2 | -1.0", "1"),
    r"\text{west}": (r"west | \text{West.} | \textbf{west}", "stew | east"),
    "west": ("West", "stew"),
    "LQSX": (r"\text{LQSX}", "XSQL"),
    r"\emptyset": (r"\varnothing | \text{no solution} | \{\}", r"0 | \{0\}"),
    r"\infty": ("+\\infty | \u221e", r"-\infty | 10^{100}"),
    "2^{1009}": (r"2\cdot 2^{1008}", "2^{1008} | 2^{1010}"),
    "I(0)": ("I(0)", "0 | I(1)"),
    r"4913 \text{ and } 5832": ("5832, 4913", "5832"),
    # Sets and intervals, as they are written in other schools.
    "(0,1)": (
        r"]0,1[ | ]0;1[ | 0<x<1 | \{x \mid 0<x<1\} | \{x\in\mathbb{R} : 0<x<1\}",
        r"[0,1[ | ]0,1] | \{x \mid 0\le x<1\} | \{0,1\} | \{x \mid y<1\}",
    ),
    "[0,1)": ("[0,1[", "]0,1] | ]0,1["),
    r"(-\infty,0)\cup(1,\infty)": (
        r"]-\infty,0[\cup]1,+\infty[ | x<0 \text{ or } x>1",
        r"]-\infty,0]\cup]1,\infty[",
    ),
    r"\{t \mid t>1\}": (r"t>1 | (1,\infty) | \{t|1<t\}", r"t\ge 1 | 1 | (1,2) | \{1\}"),
    r"\mathbb{R}\setminus\{1,2\}": (
        r"(-\infty,1)\cup(1,2)\cup(2,\infty) | \mathbb{R}-\{2,1\} | \mathbb R\backslash\{1,2\}",
        r"\mathbb{R} | \mathbb{R}\setminus\{1\} | (-\infty,1)\cup(2,\infty) | \{1,2\}",
    ),
    r"x \ne 2": (
        r"\mathbb{R}\setminus\{2\} | (-\infty,2)\cup(2,\infty)",
        r"2 | x \ne 3 | \mathbb{R}\setminus\{3\}",
    ),
    r"\{1,3\}\cup\{2,3\}": (r"\{1,2,3\} | 1,2,3", r"\{1,3\} | \{1,2,3,4\}"),
    r"\{6,7\}": (r"\{7,6,6\}", r"\{6\} | 6, 6, 7"),
    "16, 3, 1, 1": (r"\{16,3,1,1\} | 1, 1, 3, 16", "16, 3, 1"),
    "(1,2,3)": (
        "x=1,y=2,z=3 | x=1, y=2 \\text{ and } z=3",
        "x=1,y=3,z=2 | y=1,x=2,z=3 | x=1,x=2,x=3 | a=1,2,3",
    ),
    "x=1, y=2": ("(1,2) | y=2, x=1", "(2,1) | x=2, y=1"),
    r"(2k, 2k+1), k \in \mathbb{Z}": (
        r"(2k,2k+1)\ (k\in\mathbb{Z})",
        r"(2k,2k+2)\ (k\in\mathbb{Z}) | (2k,2k+1)",
    ),
    # What a name may be, and an equation in one letter.
    "19": (r"|AB| = 19 | P(X>2) = 19 | AB = 19 | f(3)=19", r"|x| = 19 | 2x = 38 | P(19) | |AB|"),
    "x^2+2x+1=0": ("(x+1)^2=0 | 2x^2+4x+2=0", "x^2+2x=0 | x = 1 | x+1 = 1 | y^2+2y+1=0"),
    # Numbers that words, dots and angles make.
    "2500000": (
        r"2.5\text{ million} | 2.5 million | 2,500\text{ thousand}",
        r"2.5 | 25\text{ million} | 2.5\text{ billion}",
    ),
    r"3\text{ million}": (
        r"3,000,000 | 3\text{ million dollars} | \$3\text{ million}",
        r"3 | \$3 | 3\text{ billion}",
    ),
    r"\$3\text{ million}": (r"\$3,000,000 | 3000000 | \$3\text{ million dollars}", r"\$3 | 3"),
    r"\frac{1}{6}": (r"0.1666\ldots | 0.1666... | 0.16666\dots", r"0.1666 | 0.16\ldots | 0.1777\ldots"),
    r"\frac{1}{7}": (r"0.142857142857\ldots", r"0.142857 | 0.142857\ldots"),
    r"\cos 20^\circ": (r"\cos\frac{\pi}{9} | \cos(20^\circ)", r"\cos 20 | 20^\circ | \sin 20^\circ"),
    r"\frac{1+\sqrt{5}}{2}": (r"2\cos 36^\circ", r"2\cos 36 | 2\sin 36^\circ"),
    r"\binom{10}{3}": (
        r"{10 \choose 3} | C_{10}^{3} | ^{10}C_3 | _{10}C_{3} | 120",
        r"C(10,4) | C_3^{10} | {3 \choose 10}",
    ),
    # Constants and points with an index are no binomials.
    "A": ("A", "A_1C_1 | C_1A"),
    "B_2C_2": ("C_2B_2", "B_1C_1 | B_1C_2"),
    "C_1 + xC_2": ("xC_2 + C_1", "C_1 + xC_2 + x^2C_3 | C_1 + xC_3"),
    "C_2+C_1x^2": ("x^2C_1+C_2", "x^2C_1 | 2x"),
    "C(5,1)": ("C(5,1)", "C(5,4) | 5 | D(5,1)"),
    "0": ("0", "C_1^2 | C(2,5)"),
    # Units.
    r"\frac{5m}{s}": (r"5 m/s | 5\frac{m}{s}", "5 m/h | 5 s/m | 6 m/s"),
    "9.8 m/s^2": (
        r"9.8 | 9.8\text{ m/s}^2 | 9.8\ \mathrm{m\,s^{-2}} | 980\text{ cm/s}^2",
        r"9.8 m/s | 9.8\text{ m} | 98 m/s^2",
    ),
    "3 m/n": (r"\frac{3m}{n}", "3 | m/n"),
    r"4\,\Omega": (r"4 | 4\ \Omega | 4\text{ ohms}", r"4\,k\Omega | 40\,\Omega"),
    r"100\,^\circ\mathrm{C}": (
        "100\u00b0C | 100 | 100^\\circ C | 100\\text{ degrees Celsius}",
        r"100^\circ F | 10^\circ C",
    ),
    "\u20ac5": ("5 | 5\u20ac | 5\\text{ euros} | \u20ac5.00", "\\$5 | \u00a35 | 50"),
    "\u20b9500": ("500 | Rs. 500 | Rs 500 | 500 rupees", "\\$500 | \u20b950"),
    "75\u00a2": ("75 | \\$0.75 | 75\\text{ cents}", "\\$75 | 7.5"),
    "O(n^2)": (r"\mathcal{O}(n^2)", r"O(n) | n^2 | \Theta(n^2)"),
    "C": (
        r"\text{Option C} | (C) | \text{Answer: (C)} | \text{the answer is C}",
        r"\text{Option D} | \text{Option}",
    ),
    # Numbers that cannot be written down.
    r"\frac{1}{2004!}": (r"\frac{1}{2004!}", r"\frac{1}{2006!} | 0 | 2004!"),
    "2^{1000000}": ("2^{1000000}", "2^{1000001} | 4^{1000000}"),
    r"\frac{1}{3^{100000}}": (r"\frac{1}{3^{100000}}", r"\frac{1}{3^{100001}} | 0"),
    r"\binom{5000}{2500}": (r"\binom{5000}{2500}", r"\binom{5000}{2499}"),
    r"\sqrt{3000!}": (r"\sqrt{3000!}", r"\sqrt{2999!}"),
}


@pytest.mark.parametrize(
    ("key", "answer"), [(key, a) for key, (same, _) in CASES.items() for a in (key, *same.split(" | "))]
)
def test_what_says_the_same_is_equal(key: str, answer: str) -> None:
    assert equal(key, answer) is True


@pytest.mark.parametrize(
    ("key", "answer"), [(key, a) for key, (_, other) in CASES.items() for a in ("", *other.split(" | "))]
)
def test_a_near_miss_is_not_equal(key: str, answer: str) -> None:
    assert equal(key, answer) is not True


def test_the_question_says_what_may_be_left_to_it() -> None:
    assert equal("5", "5\\%", question="What percent of them are odd?") is True
    assert equal("5", "5\\%", question="How many of them are odd?") is False
    assert equal("52", "52_8", question="Write 42 in base 8.") is True
    assert equal("52", "52_8") is False
    assert equal("5", "5\\text{ million}", question="How many million people live there?") is True
    assert equal("5", "5\\text{ million}", question="How many people live there?") is False


def test_a_value_beyond_all_writing_equals_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    value.evaluate.cache_clear()
    monkeypatch.setattr(number, "_MOST_BITS", 8)
    assert equal("5", "2^{30}") is False
    assert equal("5", "\\frac{2^{30}}{1}") is False
    value.evaluate.cache_clear()


def test_an_answer_of_one_value_is_one_text() -> None:
    classes = [
        ["1000", "1,000", "1{,}000", "1000.0", "\\$1000"],
        ["-0.5", "-.50", "-\\frac12"],
        ["50\\%", "50%"],
        ["x + 1", "x+1"],
    ]
    said = [{canonical(answer) for answer in answers} for answers in classes]
    assert all(len(texts) == 1 for texts in said)
    assert len(set().union(*said)) == len(classes)
