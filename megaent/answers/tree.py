"""One mathematical expression as a tree of operations, read from the text that ``notation.rewrite`` gives.

    ("num", value, unit of the last place or None)   ("sym", name)   ("const", "pi" | "e" | "i" | "inf")
    ("add" | "mul" | "div" | "pow" | "pm", a, b)     ("neg", a)      ("call", name, *arguments)

Trees are tuples, so equal readings are equal. What is not read raises Unreadable: unknown commands, words,
relations, lists. Nothing is evaluated here.
"""

from __future__ import annotations

import re
from fractions import Fraction

from megaent.answers.tokens import (
    FUNCTIONS,
    GREEK,
    MOST_DIGITS,
    NAMES,
    Tree,
    Unreadable,
    number,
    repeating,
    tokenize,
)

DEEPEST = 60  # nested groups
MOST_TOKENS = 250  # so that walking a tree stays far from the interpreter's limit of recursion


_DIFFERENTIAL = re.compile(r"d(?:\^\{?\d\}?)?(?:\\?[A-Za-z]+(?:_\w|_\{[^{}]*\})?)(?:\^\{?\d\}?)?")


def parse(text: str) -> Tree:
    """The tree of the whole text; raises Unreadable."""
    tokens = tokenize(text)
    if len(tokens) > MOST_TOKENS:
        raise Unreadable("too long for one expression")
    reader = _Reader(tokens)
    tree = reader.sum(0)
    if reader.token is not None:
        raise Unreadable(f"unexpected {reader.token!r}")
    return tree


class _Reader:
    """Recursive descent: sum, product, power, atom."""

    _angles_of = frozenset(f"\\{name}" for name in ("sin", "cos", "tan", "cot", "sec", "csc"))

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._place = 0

    @property
    def token(self) -> str | None:
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    def _next(self) -> str:
        token = self.token
        if token is None:
            raise Unreadable("it ends too early")
        self._place += 1
        return token

    def _take(self, *wanted: str) -> str | None:
        token = self.token
        if token is None or token not in wanted:
            return None
        self._place += 1
        return token

    def _expect(self, wanted: str) -> None:
        if self._take(wanted) is None:
            raise Unreadable(f"expected {wanted}, got {self.token}")

    # ------------------------------------------------------------ sums and products

    def sum(self, depth: int) -> Tree:
        if depth > DEEPEST:
            raise Unreadable("nested too deeply")
        tree: Tree | None = None
        if sign := self._take("\\pm", "\\mp"):
            tree = ("pm", ("num", Fraction(0), None), self._product(depth))
            tree = tree if sign == "\\pm" else ("pm", tree[1], ("neg", tree[2]))
        else:
            tree = self._product(depth)
        while sign := self._take("+", "-", "\\pm", "\\mp"):
            right = self._product(depth)
            if sign in "\\mp-":
                right = ("neg", right)
            tree = ("pm" if sign.startswith("\\") else "add", tree, right)
        return tree

    def _product(self, depth: int) -> Tree:
        if depth > DEEPEST:
            raise Unreadable("nested too deeply")
        if self._take("-"):
            return ("neg", self._product(depth + 1))
        if self._take("+"):
            return self._product(depth + 1)
        tree = self._power(depth)
        while True:
            if self._take("*", "\\cdot", "\\times", "\\ast"):
                tree = ("mul", tree, self._signed(depth))
            elif self._take("/", "\\div"):
                tree = ("div", tree, self._signed(depth))
            elif self._starts_factor():
                if self._is_numeral(self._place) and self._is_numeral(self._place - 1):
                    raise Unreadable("two numbers beside each other")
                right = self._power(depth)
                tree = ("add" if _is_mixed(tree, right) else "mul", tree, right)
            else:
                return tree

    def _is_numeral(self, place: int) -> bool:
        return self._tokens[place][0].isdigit() or self._tokens[place][0] == "."

    def _signed(self, depth: int) -> Tree:
        if self._take("-"):
            return ("neg", self._power(depth))
        self._take("+")
        return self._power(depth)

    def _starts_factor(self) -> bool:
        token = self.token
        if token is None or token in ("+", "-", "\\pm", "\\mp", ")", "]", "}", "|", ",", "=", "<", ">", "!"):
            return False
        return token[0].isalnum() or token[0] in "(.[{" or token in _ATOMS or token[1:] in FUNCTIONS | GREEK

    # ------------------------------------------------------------ powers and what follows an atom

    def _power(self, depth: int) -> Tree:
        tree = self._atom(depth)
        while True:
            if self._take("!"):
                tree = ("call", "factorial", tree)
            elif self._take("\\deg"):
                if self._angles_of.isdisjoint(self._tokens):
                    raise Unreadable("degrees inside an expression, where no function takes an angle")
                tree = ("mul", tree, ("div", ("const", "pi"), ("num", Fraction(180), None)))
            elif self._take("^"):
                return self._after_power(("pow", tree, self._exponent(depth)), depth)
            elif self.token == "'" and tree[0] == "sym":
                self._next()
                tree = ("sym", tree[1] + "'")
            else:
                return tree

    def _after_power(self, tree: Tree, depth: int) -> Tree:
        return ("call", "factorial", tree) if self._take("!") else tree

    def _exponent(self, depth: int) -> Tree:
        if self.token == "'":
            raise Unreadable("a prime as an exponent")
        if self._take("-"):
            return ("neg", self._exponent(depth))
        return self._power(depth + 1) if self.token and self.token.isdigit() else self._argument(depth)

    def _argument(self, depth: int) -> Tree:
        """A group in braces, or one sign: a digit, a letter, a command."""
        if self._take("{"):
            tree = self.sum(depth + 1)
            self._expect("}")
            return tree
        token = self.token
        if token and token[0].isdigit() and len(token) > 1 and token.isdigit():
            # \frac12 takes one digit and leaves the other.
            self._tokens[self._place : self._place + 1] = [token[0], token[1:]]
        return self._atom(depth + 1)

    # ------------------------------------------------------------ atoms

    def _atom(self, depth: int) -> Tree:
        if depth > DEEPEST:
            raise Unreadable("nested too deeply")
        token = self._next()
        if token[0].isdigit() or token[0] == ".":
            return self._numeral(token)
        if token in ("(", "[", "{"):
            tree = self.sum(depth + 1)
            self._expect({"(": ")", "[": "]", "{": "}"}[token])
            return tree
        if token == "|":
            tree = self.sum(depth + 1)
            self._expect("|")
            return ("call", "abs", tree)
        if len(token) == 1 and token.isalpha():
            return self._letter(token)
        if token.startswith("\\"):
            return self._command(token[1:], depth)
        raise Unreadable(f"unexpected {token!r}")

    def _numeral(self, token: str) -> Tree:
        tree = number(token)
        if self.token in ("\\overline", "\\bar", "\\dot") and "." in token:
            self._next()
            return repeating(token, self._digits())
        if self.token == "_":
            raise Unreadable("a number with an index")
        return tree

    def _digits(self) -> str:
        words = [self._next()]
        if words == ["{"]:
            words = []
            while (word := self._next()) != "}":
                words.append(word)
        digits = "".join(words)
        if not digits.isdigit() or len(digits) > MOST_DIGITS:
            raise Unreadable("digits that repeat were expected")
        return digits

    def _letter(self, letter: str) -> Tree:
        name = letter + self._index()
        if name in ("e", "i"):
            return ("const", name)
        if self.token == "(" and (argument := self._lone_argument()):
            return ("sym", f"{name}({argument})")
        return ("sym", name)

    def _lone_argument(self) -> str | None:
        """The x of f(x): taken when it is one letter or number, which no product would put in brackets."""
        tokens = self._tokens[self._place + 1 : self._place + 3]
        if len(tokens) < 2 or tokens[1] != ")" or not (tokens[0].isalnum() or tokens[0][1:] in GREEK):
            return None
        self._place += 3
        return tokens[0]

    def _index(self) -> str:
        if not self._take("_"):
            return ""
        if not self._take("{"):
            return "_" + self._next()
        words, depth = [], 1
        while depth:
            word = self._next()
            depth += {"{": 1, "}": -1}.get(word, 0)
            words.append(word)
        return "_" + "".join(word for word in words[:-1] if word not in ("{", "}", "\\text"))

    def _command(self, name: str, depth: int) -> Tree:
        if name in ("pi", "infty", "infinity", "inf"):
            return ("const", "pi" if name == "pi" else "inf")
        if name in GREEK:
            symbol = name + self._index()
            argument = self._lone_argument() if self.token == "(" else None
            return ("sym", f"{symbol}({argument})" if argument else symbol)
        if name == "frac":
            return self._fraction(depth)
        if name == "sqrt":
            return self._root(depth)
        if name == "binom":
            return ("call", "binom", self._argument(depth), self._argument(depth))
        if name in ("lfloor", "lceil"):
            tree = self.sum(depth + 1)
            self._expect("\\r" + name[1:])
            return ("call", name[1:], tree)
        if name in ("dot", "ddot", "hat", "vec", "bar", "tilde"):
            inner = self._argument(depth)
            if inner[0] != "sym":
                raise Unreadable(f"\\{name} over an expression")
            return ("sym", f"{name} {inner[1]}{self._index()}")
        if name in FUNCTIONS or name in NAMES:
            return self._call(NAMES.get(name) or name, depth)
        raise Unreadable(f"unknown \\{name}")

    def _fraction(self, depth: int) -> Tree:
        start = self._place
        above = self._argument(depth)
        middle = self._place
        below = self._argument(depth)
        words = [
            "".join(w for w in t if w not in "{}")
            for t in (self._tokens[start:middle], self._tokens[middle : self._place])
        ]
        if all(_DIFFERENTIAL.fullmatch(word) for word in words):
            return ("sym", f"{words[0]}/{words[1]}")
        return ("div", above, below)

    def _root(self, depth: int) -> Tree:
        degree: Tree = ("num", Fraction(2), None)
        if self._take("["):
            degree = self.sum(depth + 1)
            self._expect("]")
        # \sqrt13 is meant as the root of 13, whatever it looks like in print.
        inner = self._numeral(self._next()) if (self.token or "").isdigit() else self._argument(depth)
        return ("call", "root", inner, degree)

    def _call(self, name: str, depth: int) -> Tree:
        base = power = None
        while self.token in ("^", "_"):
            if self._next() == "^":
                power = self._exponent(depth)
            else:
                base = self._argument(depth)
        tree = ("call", name, *self._arguments(name, depth))
        if base is not None:
            if name != "log":
                raise Unreadable(f"{name} with an index")
            tree = ("call", "log", tree[2], base)
        if power is None:
            return tree
        if power == ("neg", ("num", Fraction(1), None)):
            return ("call", "arc" + name, tree[2]) if name in ("sin", "cos", "tan") else _refuse(name)
        return ("pow", tree, power)

    def _arguments(self, name: str, depth: int) -> list[Tree]:
        if self.token in ("(", "{", "["):
            closing = {"(": ")", "{": "}", "[": "]"}[self._next()]
            trees = [self.sum(depth + 1)]
            while name in ("max", "min", "gcd", "lcm") and self._take(","):
                trees.append(self.sum(depth + 1))
            self._expect(closing)
            return trees
        # \sin 2x: the product that follows, up to the next function.
        if self._take("-"):
            return [("neg", self._arguments(name, depth + 1)[0])]
        tree = self._power(depth + 1)
        while (
            self._starts_factor() and self.token not in ("(", "[") and (self.token or "")[1:] not in FUNCTIONS
        ):
            tree = ("mul", tree, self._power(depth + 1))
        return [tree]


_ATOMS = frozenset(
    [
        "\\frac", "\\sqrt", "\\pi", "\\infty", "\\binom", "\\lfloor", "\\lceil", "\\dot", "\\ddot", "\\hat",
        "\\vec", "\\bar", "\\tilde", "\\inf",
    ]
)  # fmt: skip


def _refuse(name: str) -> Tree:
    raise Unreadable(f"the inverse of {name}")


def _is_mixed(left: Tree, right: Tree) -> bool:
    """``1\\frac{4}{5}``: a whole number and a proper fraction beside each other are a sum."""
    if left[0] != "num" or left[2] is not None or right[0] != "div":
        return False
    above, below = right[1], right[2]
    if above[0] != "num" or below[0] != "num" or above[2] is not None or below[2] is not None:
        return False
    return 0 < above[1] < below[1]
