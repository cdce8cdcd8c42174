"""Questions that are met twice: in one set, or in a set to train on and one to be measured on.

Texts are compared by their words alone: case, punctuation, spaces and the width of characters aside.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

GRAM = 13  # words in a row that are hardly shared by chance (Brown et al. 2020, arXiv 2005.14165, app. C)
_WORD = re.compile(r"\w+")


class Shared(NamedTuple):
    place: str
    other: str  # where the same words stand
    words: str  # the first of them


def words_of(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def copies(questions: Mapping[str, str]) -> list[tuple[str, str]]:
    """(place, place of the first with the same words), of texts by their place."""
    first: dict[str, str] = {}
    found = []
    for place, text in questions.items():
        known = first.setdefault(" ".join(words_of(text)), place)
        if known != place:
            found.append((place, known))
    return found


def contaminated(questions: Mapping[str, str], against: Mapping[str, str]) -> list[Shared]:
    """Each question that shares ``GRAM`` words in a row with one of ``against``; of a shorter text, all."""
    where: dict[str, str] = {}
    for place, text in against.items():
        for gram in _grams(words_of(text)):
            where.setdefault(gram, place)
    found = (_first_shared(place, words_of(text), where) for place, text in questions.items())
    return [shared for shared in found if shared is not None]


def _first_shared(place: str, words: Sequence[str], where: Mapping[str, str]) -> Shared | None:
    grams = (gram for gram in _grams(words) if gram in where)
    gram = next(grams, None)
    return None if gram is None else Shared(place, where[gram], gram)


def _grams(words: Sequence[str]) -> Iterator[str]:
    if words:
        yield from (" ".join(words[i : i + GRAM]) for i in range(max(len(words) - GRAM, 0) + 1))
