"""Multiple choice: the options of a row, and the letter of the right one, however the row says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from megaent.errors import DataError

NAMES = ("choices", "options")


def choices_of(row: Mapping[str, object]) -> tuple[str, ...]:
    """The options' texts in the order of their letters; () for a row without."""
    given: Any = next((row[name] for name in NAMES if row.get(name)), None)
    if isinstance(given, Mapping):
        if isinstance(given.get("text"), Sequence):
            given = given["text"]  # ARC: {"text": […], "label": […]}
        elif list(given) == list(ascii_uppercase[: len(given)]):
            given = list(given.values())
    if given is None:
        return ()
    is_list = isinstance(given, Sequence) and not isinstance(given, str)
    if not is_list or not 2 <= len(given) <= len(ascii_uppercase):
        raise DataError(f"choices must be a list of 2 to 26 texts, got {given!r:.80}")
    return tuple(str(choice).strip() for choice in given)


def chosen_letter(answer: object, choices: Sequence[str]) -> str:
    """``answer`` is a letter, a text, or a number counted from 0. Raises DataError where it fits two ways."""
    letters = ascii_uppercase[: len(choices)]
    text = str(answer).strip().strip("().")
    ways = {letters[place] for place, choice in enumerate(choices) if choice == str(answer).strip()}
    if text.upper() in letters and len(text) == 1:
        ways.add(text.upper())
    if text.isdecimal() and int(text) < len(choices):
        ways.add(letters[int(text)])
    if len(ways) != 1:
        fits = f"could be {' or '.join(sorted(ways))}" if ways else "is none of them"
        shown = ", ".join(f"{letter} {choice!r:.30}" for letter, choice in zip(letters, choices, strict=True))
        raise DataError(f"the answer {answer!r:.60} {fits}: {shown}; choose by data.answer_key")
    return ways.pop()


def with_choices(question: str, choices: Sequence[str]) -> str:
    lines = [f"({letter}) {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False)]
    return "\n".join([question, *lines])
