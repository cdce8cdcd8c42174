"""Verifiers that decide by one look at a response's text: the same words, the letter of a choice, its form.

Each is a function of (response, key) and holds nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from megaent.answers.boxes import last_boxes
from megaent.answers.find import find_answer
from megaent.types import Grade, Group

_LETTER = re.compile(r"\(?([A-Za-z])\)?(?:[.:)]\s.*|\s*)", re.DOTALL)
_WRAPPED = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")
_THOUGHT = re.compile(
    r"\s*(?:<think>)?(?P<thought>(?:(?!</?think>).)*)</think>(?P<rest>(?:(?!</?think>).)*)", re.DOTALL
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ByText:
    grade_one: Callable[[str, str], Grade]

    def grade(self, groups: Sequence[Group]) -> list[Group]:
        return [
            replace(group, grades=tuple(self.grade_one(r.text, group.prompt.answer) for r in group.responses))
            for group in groups
        ]

    def close(self) -> None:
        """Nothing is held."""


def same_text(response: str, key: str) -> Grade:
    """The final answer is the key, but for case, width of characters, spaces and a full stop at the end."""
    found = find_answer(response)
    return _compared(None if found is None else canonical_text(found), canonical_text(key))


def same_choice(response: str, key: str) -> Grade:
    """The final answer is the key's letter, alone, in parentheses or before its text: B, (b), B. north."""
    found = chosen(find_answer(response) or response)
    return _compared(found, chosen(key) or canonical_text(key))


def is_boxed(response: str, key: str) -> Grade:
    """The response states its answer in a box, whatever the answer."""
    return _form(bool(last_boxes(response)), "no answer in a box")


def has_thought(response: str, key: str) -> Grade:
    """One thinking part, which ends, and something after it; a template may have opened it already."""
    match = _THOUGHT.fullmatch(response)
    is_whole = match is not None and bool(match["thought"].strip()) and bool(match["rest"].strip())
    return _form(is_whole, "not one thinking part and an answer after it")


def canonical_text(text: str) -> str:
    plain = _WRAPPED.sub(r"\1", unicodedata.normalize("NFKC", text))
    return " ".join(plain.split()).strip("$ ").removesuffix(".").casefold()


def chosen(text: str) -> str | None:
    """The letter, in upper case; None where the text begins with no letter that stands for a choice."""
    match = _LETTER.fullmatch(_WRAPPED.sub(r"\1", text).strip(" \t\n$*`").removesuffix("."))
    return match.group(1).upper() if match else None


def _compared(said: str | None, key: str) -> Grade:
    if not said:
        return Grade(reward=0.0, correct=False, note="no answer found")
    return Grade(reward=float(said == key), correct=said == key, answer=said)


def _form(is_so: bool, otherwise: str) -> Grade:
    return Grade(reward=float(is_so), correct=is_so, note="" if is_so else otherwise, answer="form")
