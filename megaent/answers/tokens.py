"""The signs, words and numerals that an expression is made of."""

from __future__ import annotations

import re
from fractions import Fraction

Tree = tuple
MOST_DIGITS = 400  # of one number
FUNCTIONS = frozenset(
    [
        "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh",
        "coth", "ln", "log", "exp", "lg", "max", "min", "gcd", "lcm",
    ]
)  # fmt: skip
GREEK = frozenset(
    [
        "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda",
        "mu", "nu", "xi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega", "Gamma",
        "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Phi", "Psi", "Omega", "hbar", "ell",
    ]
)  # fmt: skip
NAMES = {
    "arc": "",
    "tg": "tan",
    "ctg": "cot",
    "cosec": "csc",
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
}
_PLAIN_WORDS = FUNCTIONS | GREEK | {"sqrt", "pi", "infty", "infinity", "inf", *NAMES} - {"arc"}
_TOKEN = re.compile(
    r"(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?![\d]))"
    r"|(?P<command>\\(?:[A-Za-z]+|.))|(?P<letters>[A-Za-z]+)|(?P<sign>\S)"
)
_DIGIT_WORDS = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
}


class Unreadable(ValueError):
    """This text is not one expression that is understood here."""


def base_of(text: str) -> int | None:
    """8 for ``8``, ``{8}``, ``{\\text{eight}}``: the base that a number's index names."""
    word = re.sub(r"\\text|[{}\s]", "", text)
    base = int(word) if re.fullmatch(r"\d{1,2}", word) else _DIGIT_WORDS.get(word.lower(), 0)
    return base if 2 <= base <= 36 else None


def number(text: str) -> Tree:
    """The leaf of a decimal numeral, with an exponent of ten or without."""
    if len(text) > MOST_DIGITS:
        raise Unreadable("a number of too many digits")
    digits, _, exponent = text.lower().partition("e")
    if abs(int(exponent or 0)) > MOST_DIGITS * 10:
        raise Unreadable("a number of too many digits")
    places = len(digits.partition(".")[2])
    scale = Fraction(10) ** int(exponent or 0)
    is_rounded = bool(digits.partition(".")[2].strip("0")) or bool(exponent)  # 27.0 is 27
    value = Fraction(int(digits.replace(".", "") or 0), 10**places) * scale
    return ("num", value, scale / 10**places if is_rounded else None)


def tokenize(text: str) -> list[str]:
    tokens: list[str] = []
    for found in _TOKEN.finditer(text):
        word = found.group()
        if found.lastgroup != "letters":
            tokens.append(word)
        elif word in ("Pi", "PI"):
            tokens.append("\\pi")
        elif word in _PLAIN_WORDS:
            tokens.append("\\" + word)
        else:
            tokens.extend(word)
    return tokens


def repeating(start: str, digits: str) -> Tree:
    """``0.1\\overline{6}`` as 1/6."""
    places = len(start.partition(".")[2])
    value = number(start)[1] + Fraction(int(digits), (10 ** len(digits) - 1) * 10**places)
    return ("num", value, None)
