"""An answer as it is meant: a quantity, a word, a list, an interval, a matrix, a relation between such.

``read`` never guesses: what is not one of these is None, and so is a hedge such as ``5 (or 6)``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

from megaent.answers.measured import without_unit
from megaent.answers.notation import join_commas, rewrite
from megaent.answers.reading import EMPTY, REALS, Items, Matrix, Quantity, Reading, Relation, Union
from megaent.answers.tokens import Tree, Unreadable, base_of
from megaent.answers.tree import parse
from megaent.answers.value import rational
from megaent.answers.words import read_word

_LEAD = re.compile(
    r"^(?:(?:\\text\s*\{\s*)?(?:the\s+)?(?:final\s+|correct\s+)?(?:answer|option|choice|value|result)(?:\s+is)?\s*:?\s*\}?\s*"
    r"(?=[\\\d.($A-Z\[-]|\w+$)|=\s*|\\approx\s*|\\text\s*\{\s*(?:about|approximately|is)\s*\}\s*|(?:about|approximately)\s+)",
    re.IGNORECASE,
)
_OPEN, _CLOSE = (
    ("(", "[", "{", "\\{", "\\lfloor", "\\lceil", "\\langle", "\\begin"),
    (")", "]", "}", "\\}", "\\rfloor", "\\rceil", "\\rangle", "\\end"),
)
_PIECE = re.compile(r"\\text\s*\{[^{}]*\}|\\(?:[A-Za-z]+|.)|[A-Za-z]+|.", re.DOTALL)
_JOIN = re.compile(r"\\text\s*\{[\s,]*(?:and|or)[\s,]*\}|and|or|\\(?:lor|vee|land|wedge)", re.IGNORECASE)
SIGNS = ("=", "<", ">", "\\le", "\\ge", "\\ne", "\\approx", "\\in", "\\equiv", "\\notin", "\\to", "\\implies")
_MATRIX = re.compile(
    r"^\\begin\s*\{([pbvBV]?matrix|array|smallmatrix)\}(?:\s*\{[lcr|\s]*\})?(.*)\\end\s*\{\1\}$", re.DOTALL
)
_ENCLOSED_ARRAY = re.compile(
    r"^[(\[]\s*(\\begin\s*\{(?:array|matrix|smallmatrix)\}.*\\end\s*\{\w+\})\s*[)\]]$", re.DOTALL
)
_BASE = re.compile(
    r"^(-?)\s*\(?\s*(?:\\text\s*\{)?([0-9][0-9A-Fa-f]*|[A-F]+[0-9][0-9A-F]*)\}?\s*\)?\s*_\s*(\d|\{[^{}]*(?:\{[^{}]*\})?[^{}]*\}|\\text\s*\{[^{}]*\})$"
)
_BASE_WORDS = re.compile(
    r"^(-?)\s*()([0-9A-Fa-f]+)\s*(?:\\text\s*\{)?\s*\(?(?:in )?base\s*[-\s]?\s*(\w+)\s*\)?\s*\}?$"
)
_MIXED = re.compile(r"(?<![\d.\w/)}])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])")
_PERCENT = re.compile(r"\s*(?:\\?%|\\text\s*\{\s*(?:\\?%|per\s?cent)\s*\}|\bper\s?cent)\s*$", re.IGNORECASE)
_OUTSIDE = re.compile(r"([\[\]])([^\[\]]*[,;][^\[\]]*)([\[\]])")
_ALL_BUT = re.compile(r"\\mathbb\s*(?:\{R\}|R)\s*(?:\\setminus|-)\s*(\\\{.+\\\})")
_LETTER_IN_TEXT = re.compile(
    r"^\\text\s*\{\s*(?:the\s+)?(?:option|choice|answer)(?:\s+is)?\s*:?\s*\(?([A-H])\)?\.?\s*\}$",
    re.IGNORECASE,
)
_FUNCTION_NAME = re.compile(r"([A-Za-z])\s*\(.*\)")


@lru_cache(maxsize=65536)
def read(text: str) -> Reading | None:
    """What the text says, or None."""
    try:
        return _read(_without_lead(rewrite(text)))
    except (Unreadable, RecursionError):
        return None


def _without_lead(text: str) -> str:
    text = _LETTER_IN_TEXT.sub(r"\\text{\1}", text)
    for _ in range(3):
        text = _LEAD.sub("", text).strip()
    return text


def _read(text: str) -> Reading:
    text = text.strip()
    if not text:
        raise Unreadable("nothing there")
    if (word := read_word(text)) is not None:
        return word
    text = join_commas(text, in_brackets=any(bracket in text for bracket in "([") or "\\{" in text)
    parts = list(split(text, (",", ";"), joins=True))
    if len(parts) > 1:
        return _list(parts)
    return _relation(text)


def _list(parts: list[str]) -> Items:
    if any(not part.strip() for part in parts):
        raise Unreadable("an empty place in a list")
    items = [_read(part) for part in parts]
    first = items[0]
    if (
        isinstance(first, Relation)
        and first.signs == ("=",)
        and not any(isinstance(i, Relation) for i in items[1:])
    ):
        # x = 2, 3 means x = 2 and x = 3.
        items = [first, *(Relation((first.sides[0], item), first.signs) for item in items[1:])]
    return Items("", "", tuple(expand(items)))


def expand(items: Sequence[Reading]) -> Iterator[Reading]:
    """The items, ``1 \\pm 2`` as two."""
    for item in items:
        if isinstance(item, Quantity) and _has_choice(item.tree):
            yield from (replace(item, tree=_choose(item.tree, sign)) for sign in ("add", "sub"))
        elif isinstance(item, Items) and item.opening == "":
            yield from item.items
        else:
            yield item


def _has_choice(tree: Tree) -> bool:
    if tree[0] == "pm":
        return True
    for part in tree[1:]:  # noqa: SIM110, a generator would double the recursion
        if isinstance(part, tuple) and _has_choice(part):
            return True
    return False


def _choose(tree: Tree, sign: str) -> Tree:
    parts = tuple(_choose(part, sign) if isinstance(part, tuple) else part for part in tree[1:])
    if tree[0] != "pm":
        return (tree[0], *parts)
    return ("add", parts[0], parts[1] if sign == "add" else ("neg", parts[1]))


# ---------------------------------------------------------------- relations, unions, brackets


def _relation(text: str) -> Reading:
    sides = list(split(text, SIGNS, keep=True))
    if len(sides) == 1:
        return _union(text)
    signs = tuple(sides[1::2])
    if any(sign in ("\\to", "\\implies") for sign in signs):
        raise Unreadable("an arrow")
    *named, last = sides[::2]
    readings = [
        *(_left(side) if side.strip() else None for side in named),
        _union(last) if last.strip() else None,
    ]
    if any(side is None for side in readings[1:]):
        raise Unreadable("a relation without its end")
    if any(isinstance(side, Quantity) and _has_choice(side.tree) for side in readings):
        if len(readings) != 2 or signs != ("=",):
            raise Unreadable("a choice of signs in a relation")
        both = list(expand([r for r in readings[1:] if r is not None]))
        return Items("", "", tuple(Relation((readings[0], side), signs) for side in both))
    return Relation(tuple(readings), signs)


def _left(text: str) -> Reading:
    """A side that may be the name of what the last one is: also ``P(X > 2)``."""
    try:
        return _union(text)
    except Unreadable:
        found = _FUNCTION_NAME.fullmatch(text.strip())
        if found is None:
            raise
        return Quantity(("sym", "".join(text.split())))


def _ratio(text: str) -> Reading | None:
    """``3:40`` and ``1 : 2``."""
    body, unit = without_unit(text) if "\\text" in text else (text, "")
    parts = list(split(body, (":",)))
    if len(parts) == 1:
        return None
    items = [_quantity(part) for part in parts]
    return Items(":", unit.casefold(), tuple(items))


def _union(text: str) -> Reading:
    if ":" in text and (ratio := _ratio(text)) is not None:
        return ratio
    if found := _ALL_BUT.fullmatch(text.strip()):
        return _all_but(_group(found.group(1)))
    parts = [_group(part) for part in split(text, ("\\cup",))]
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, Items) and part.opening == "{" for part in parts):
        items = [item for part in parts if isinstance(part, Items) for item in part.items]
        return Items("{", "}", tuple(dict.fromkeys(items)))
    return Union(tuple(parts))


def _all_but(points: Reading) -> Union:
    """The real numbers without some: ``(-\\infty, 2) \\cup (2, \\infty)``."""
    if not isinstance(points, Items) or points.opening != "{":
        raise Unreadable("points were expected")
    known = [(rational(point.tree), point) for point in points.items if isinstance(point, Quantity)]
    if len(known) < len(points.items) or (len(known) > 1 and any(number is None for number, _ in known)):
        raise Unreadable("points in an order that is not known")
    low, high = REALS.items
    edges = [low, *(point for _, point in sorted(known, key=lambda pair: pair[0] or 0)), high]
    return Union(tuple(Items("(", ")", pair) for pair in pairwise(edges)))


def _group(text: str) -> Reading:
    text = text.strip()
    if re.fullmatch(r"\\mathbb\s*(?:\{R\}|R)", text):
        return REALS
    text = _OUTSIDE.sub(_turned, text) if _OUTSIDE.fullmatch(text) else text
    if matrix := _MATRIX.match(_ENCLOSED_ARRAY.sub(r"\1", text)):
        return _matrix(matrix.group(2))
    brackets = _brackets(text)
    if brackets is None:
        return _quantity(text)
    opening, inner, closing = brackets
    parts = list(split(join_commas(inner, in_brackets=True), (",", ";"), joins=opening == "{"))
    if opening == "{":
        if not inner.strip():
            return EMPTY
        if "|" in inner or ":" in inner:
            return _by_condition(inner)
        return Items("{", "}", tuple(expand([_read(part) for part in parts])))
    if len(parts) == 1:
        if (opening, closing) == ("(", ")") and (word := read_word(inner)) is not None:
            return word
        return _quantity(text)
    return Items(opening, closing, tuple(_relation(part) for part in parts))


def _turned(found: re.Match[str]) -> str:
    """``]0, 1[`` as ``(0, 1)``: a bracket turned outwards leaves its end out."""
    opening, closing = {"]": "("}.get(found.group(1), "["), {"[": ")"}.get(found.group(3), "]")
    return f"{opening}{found.group(2)}{closing}"


def _by_condition(inner: str) -> Reading:
    """``\\{x \\in \\mathbb{R} | 0 < x < 1\\}``: what the condition says of its letter."""
    of, *conditions = split(inner, ("|", ":"))
    name = re.sub(r"\\in\s*\\mathbb\s*(?:\{R\}|R)\s*$", "", of).strip()
    if len(conditions) != 1 or not re.fullmatch(r"\\?[A-Za-z]+", name):
        raise Unreadable("a set by a condition")
    relation = _relation(conditions[0].strip())
    if (
        not isinstance(relation, Relation)
        or "=" in relation.signs
        or Quantity(parse(name)) not in relation.sides
    ):
        raise Unreadable("a set by a condition that is no inequality")
    return relation


def _brackets(text: str) -> tuple[str, str, str] | None:
    """(opening, inside, closing) of brackets that enclose all of the text."""
    for opening, closings in (
        ("\\{", ("\\}",)),
        ("\\langle", ("\\rangle",)),
        ("(", (")", "]")),
        ("[", ("]", ")")),
    ):
        for closing in closings:
            if text.startswith(opening) and text.endswith(closing) and _is_one_group(text):
                inner = text[len(opening) : len(text) - len(closing)]
                sign = {"\\{": "{", "\\langle": "("}.get(opening, opening)
                return sign, inner, {"\\}": "}", "\\rangle": ")"}.get(closing, closing)
    return None


def _is_one_group(text: str) -> bool:
    depth = 0
    pieces = list(_PIECE.finditer(text))
    for found in pieces[:-1]:
        depth += (found.group() in _OPEN) - (found.group() in _CLOSE)
        if depth == 0:
            return False
    return True


def _matrix(inner: str) -> Matrix:
    rows = [row for row in inner.replace("\\hline", "").split("\\\\") if row.strip()]
    if not rows:
        raise Unreadable("an empty matrix")
    return Matrix(tuple(tuple(_quantity(cell.strip()) for cell in split(row, ("&",))) for row in rows))


def split(text: str, marks: tuple[str, ...], *, joins: bool = False, keep: bool = False) -> Iterator[str]:
    """The parts of the text between the marks that stand outside of brackets; with ``keep`` the marks too."""
    depth, start = 0, 0
    after_mark = False
    for found in _PIECE.finditer(text):
        piece = found.group()
        depth += (piece in _OPEN) - (piece in _CLOSE)
        is_join = joins and depth == 0 and bool(_JOIN.fullmatch(piece))
        if depth != 0 or not (piece in marks or is_join):
            after_mark = after_mark and piece.isspace()
            continue
        # ", and" is one mark.
        if not (is_join and after_mark):
            yield text[start : found.start()]
            if keep:
                yield piece
        start = found.end()
        after_mark = True
    yield text[start:]


# ---------------------------------------------------------------- words and quantities


def _quantity(text: str) -> Quantity:
    text = text.strip()
    if based := _based(text):
        return based
    if _PERCENT.search(text):
        return replace(_quantity_of(_PERCENT.sub("", text)), is_percent=True)
    body, unit = without_unit(text)
    return replace(_quantity_of(body), unit=unit)


def _quantity_of(text: str) -> Quantity:
    if based := _based(text.strip()):
        return based
    return Quantity(parse(_MIXED.sub(r"(\1+\2/\3)", text)))


def _based(text: str) -> Quantity | None:
    found = _BASE.match(text) or _BASE_WORDS.match(text)
    if found is None:
        return None
    sign, digits, index = found.group(1), found.group(2) or found.group(3), found.groups()[-1]
    base = base_of(index)
    if base is None:
        return None
    try:
        value = int(digits, base)
    except ValueError as error:
        raise Unreadable(f"{digits} has digits beyond base {base}") from error
    digits = sign + (digits.lower().lstrip("0") or "0")
    return Quantity(parse(f"{sign}{value}"), base=base, digits=digits)
