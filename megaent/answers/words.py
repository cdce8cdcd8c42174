"""Answers in words: ``east``, ``(C)``, ``no solution``; a letter alone is a symbol."""

from __future__ import annotations

import re

from megaent.answers.reading import EMPTY, REALS, Items, Quantity, Reading, Word
from megaent.answers.tokens import FUNCTIONS, GREEK
from megaent.answers.tree import parse

_EMPTY_WORDS = frozenset(
    {"no solution", "no solutions", "no real solution", "no real solutions", "empty set", "empty", "none",
     "emptyset", "there are no solutions"}
)  # fmt: skip
_LETTERS = re.compile(r"[A-Za-z][A-Za-z'\- ]*[A-Za-z.]")
_CHOICE = re.compile(r"(?:\(([A-H])\)|([A-H])[.:)])\s*\S")
_PRODUCTS = tuple(map(frozenset, ("abcd", "xyzw", "pqrs", "ijk", "lmnk", "uvw")))


def read_word(text: str) -> Reading | None:
    """A text that is nothing but words; a letter alone is a symbol, and so is a short product of letters."""
    if text in ("\\emptyset", "\\{\\}", "\\{ \\}"):
        return EMPTY
    is_upright = "\\text" in text
    bare = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text) if is_upright else text
    bare = bare.replace("\\", " ") if re.fullmatch(r"[^\\]*(?:\\ [^\\]*)*", bare) else bare
    bare = " ".join(bare.split()).strip(".,;:!")
    if bare.startswith("(") and bare.endswith(")") and "(" not in bare[1:]:
        bare = bare[1:-1].strip()
    if len(bare) == 1 and bare.isalpha():
        return Quantity(parse(bare))
    if (choice := _CHOICE.match(bare)) and not re.search(r"\b(?:or|and)\b|[,;=]", bare):
        return Quantity(parse(choice.group(1) or choice.group(2)))
    if is_upright and re.fullmatch(r"[A-Za-z][A-Za-z ]+(?:,\s*[A-Za-z ]+)+", bare) and "text" in text[:6]:
        return Items("", "", tuple(Word(" ".join(part.casefold().split())) for part in bare.split(",")))
    if is_upright and re.fullmatch(r"[A-Z](?:\s*(?:,|and)\s*[A-Z])+", bare):
        return Items("", "", tuple(Quantity(parse(letter)) for letter in re.findall(r"\b[A-Z]\b", bare)))
    if not _is_words(bare, is_upright=is_upright):
        return None
    words = re.sub(r"[^\w\s]", " ", bare.casefold()).split()
    joined = " ".join(words[1:] if words[0] in ("a", "an", "the") and len(words) > 1 else words)
    if joined in ("infinity", "positive infinity", "negative infinity"):
        return Quantity(("neg", ("const", "inf")) if joined[0] == "n" else ("const", "inf"))
    if joined in ("all real numbers", "all reals", "all real"):
        return REALS
    return EMPTY if joined in _EMPTY_WORDS else Word(joined)


def _is_words(bare: str, *, is_upright: bool) -> bool:
    if is_upright and re.fullmatch(r"[A-Za-z][\w'\-.\s:]*", bare):
        return True
    if not _LETTERS.fullmatch(bare):
        return False
    runs = re.findall(r"[A-Za-z]+", bare)
    if any(
        run in FUNCTIONS | GREEK | {"sqrt", "pi", "infty", "infinity", "inf", "and", "or"} for run in runs
    ):
        return False
    return any(not _is_product(run) for run in runs)


def _is_product(run: str) -> bool:
    """Letters beside each other that are factors: ``x``, ``xy``, ``abc``, but neither ``AB`` nor ``east``."""
    if len(run) == 1:
        return True
    return (
        run.islower() and (len(run) == 2 and run not in ("no", "so", "is", "on", "in", "it", "up", "us"))
    ) or any(set(run) <= letters and len(set(run)) == len(run) for letters in _PRODUCTS)
