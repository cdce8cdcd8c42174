"""Multiple choice: the options of a row, and the letter of the right one, however the row says it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase

from megaent.errors import DataError

NAMES = ("choices", "options")
_COLUMNS = (
    ascii_uppercase,  # CMMLU, C-Eval
    *([f"{name}{letter}" for letter in ascii_lowercase] for name in ("option_", "choice_", "op")),
    *([f"{name}{letter}" for letter in ascii_uppercase] for name in ("option_", "option", "option ")),
    *([f"{name}{n}" for n in range(1, 27)] for name in ("option", "option_", "choice", "choice_")),
)
_LABEL = re.compile(r"\(?([A-Za-z])\s*[).:]\s*(?=\S)")


@dataclass(frozen=True, slots=True)
class Choices:
    texts: tuple[str, ...]  # in the order of their letters
    labels: tuple[str, ...] = ()  # what the row calls them: "1", "2", …; () for the letters from A on


def choices_of(row: Mapping[str, object]) -> Choices | None:
    """The options of a row; None for a row without. Raises DataError for what is no list of them."""
    given = next((_decoded(row[name]) for name in NAMES if row.get(name)), None)
    if given is None:
        return _in_columns(row)
    found = _listed(given)
    if found is None or not 2 <= len(found.texts) <= len(ascii_uppercase):
        raise DataError(f"choices must be a list of 2 to 26 texts, got {given!r:.80}")
    return _without_letters(found)


def chosen_letter(answer: object, choices: Choices) -> str:
    """``answer`` is a label, a text, or a number counted from 0. Raises DataError where it fits two ways.

    Where numbers are the labels, a number is a label and is not counted.
    """
    written = str(answer).strip()
    label = written.strip("().").upper()
    said = ""
    if (both := _LABEL.match(written)) and written[both.end() :] in choices.texts:  # "B. y"
        label, said = both.group(1).upper(), written[both.end() :]
    labels = choices.labels or tuple(ascii_uppercase[: len(choices.texts)])
    places = {place for place, text in enumerate(choices.texts) if text in (written, said)}
    places |= {place for place, name in enumerate(labels) if name == label}
    if label.isdecimal() and int(label) < len(labels) and not labels[0].isdecimal():
        places.add(int(label))
    ways = [ascii_uppercase[place] for place in sorted(places)]
    if len(ways) != 1:
        fits = f"could be {' or '.join(ways)}" if ways else "is none of them"
        shown = ", ".join(f"{letter} {text!r:.30}" for letter, text in _lettered(choices))
        raise DataError(f"the answer {answer!r:.60} {fits}: {shown}; choose by data.answer_key")
    return ways[0]


def with_choices(question: str, choices: Choices) -> str:
    return "\n".join([question, *(f"({letter}) {text}" for letter, text in _lettered(choices))])


# ---------------------------------------------------------------- how rows hold them


def _listed(given: object) -> Choices | None:
    """A list of texts or of labelled texts; ``{"text": […], "label": […]}`` as ARC has it; ``{"A": …}``."""
    if isinstance(given, Mapping) and isinstance(given.get("text"), Sequence):
        return _labelled(given["text"], given.get("label"))
    if isinstance(given, Mapping) and list(given) == list(ascii_uppercase[: len(given)]):
        return _labelled(list(given.values()), None)
    if isinstance(given, str) or not isinstance(given, Sequence):
        return None
    if all(isinstance(entry, Mapping) and "text" in entry and "label" in entry for entry in given):
        return _labelled([entry["text"] for entry in given], [entry["label"] for entry in given])
    return None if any(isinstance(entry, Mapping) for entry in given) else _labelled(given, None)


def _labelled(texts: Sequence[object], labels: object) -> Choices:
    told = labels if isinstance(labels, Sequence) else ()
    filled = _without_empty_end(texts)
    if len(told) == len(texts):
        told = told[: len(filled)]
    texts = filled
    names = tuple(str(label).strip("().: ").upper() for label in told)
    if names and (len(names) != len(texts) or len(set(names)) < len(names)):
        raise DataError(
            f"choices must have a label each, got {len(texts)} texts and the labels {labels!r:.60}"
        )
    return Choices(tuple(str(text).strip() for text in texts), names)


def _without_empty_end(texts: Sequence[object]) -> Sequence[object]:
    """Tables have as many places as their longest row. Raises DataError for one that is empty amid others."""
    filled = [place for place, text in enumerate(texts) if text is not None and text != ""]
    number = filled[-1] + 1 if filled else 0
    if len(filled) < number:
        raise DataError(f"choices must be texts without a gap, got {list(texts)!r:.80}; leave the row out")
    return texts[:number]


def _in_columns(row: Mapping[str, object]) -> Choices | None:
    """A column for each option: ``A``, ``B``, …, or ``option1``, ``option_a``, ``opa`` and on."""
    for names in _COLUMNS:
        given = [row.get(name) for name in names]
        if all(first not in (None, "") for first in given[:2]):
            texts = _without_empty_end(given)
            labels = [str(n) for n in range(1, len(texts) + 1)] if names[0].endswith("1") else None
            return _labelled(texts, labels)
    return None


def _without_letters(choices: Choices) -> Choices:
    """``A. x`` as x, where every option begins with its own letter."""
    found = [_LABEL.match(text) for text in choices.texts]
    letters = "".join(match.group(1).upper() for match in found if match)
    if letters != ascii_uppercase[: len(choices.texts)]:
        return choices
    return Choices(tuple(_LABEL.sub("", text, count=1) for text in choices.texts), choices.labels)


def _lettered(choices: Choices) -> list[tuple[str, str]]:
    return list(zip(ascii_uppercase, choices.texts, strict=False))


def _decoded(given: object) -> object:
    """CSV holds a list as JSON text."""
    if isinstance(given, str) and given.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(given)
        except ValueError:
            return given
    return given
