"""Answers that are one integer in an agreed place, compared digit by digit."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from megaent.types import Grade, Group

_INTEGER = re.compile(r"[+-]?[0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactAnswer:
    """Correct when what ``read`` finds in the response is the integer of the answer key."""

    read: Callable[[str], str | None]

    def grade(self, groups: Sequence[Group]) -> list[Group]:
        return [
            replace(group, grades=tuple(self._grade(r.text, group.prompt.answer) for r in group.responses))
            for group in groups
        ]

    def close(self) -> None:
        """Nothing is held."""

    def _grade(self, text: str, key: str) -> Grade:
        answer = self.read(text)
        if answer is None:
            return Grade(reward=0.0, correct=False, note="no answer found")
        said = _canonical(answer)
        correct = said == _canonical(key)
        return Grade(reward=float(correct), correct=correct, answer=said)


def final_number(text: str) -> str | None:
    """The word after the last ``A``, when it is an integer: how a chain sum ends."""
    return _after_last("A", text)


def last_result(text: str) -> str | None:
    """The word after the last ``=``, when it is an integer: how an answer of two strategies ends."""
    return _after_last("=", text)


def first_integer(text: str) -> str | None:
    """The first integer of the first line; a few-shot model goes on with lines of its own."""
    found = _INTEGER.search(text.split("\n", 1)[0])
    return found.group() if found else None


def _after_last(mark: str, text: str) -> str | None:
    words = text.split()
    if mark not in words[:-1]:
        return None
    answer = words[len(words) - words[:-1][::-1].index(mark) - 1]
    return answer if _INTEGER.fullmatch(answer) else None


def _canonical(integer: str) -> str:
    # As text, because a response may hold more digits than Python agrees to convert.
    digits = integer.strip().lstrip("+-").lstrip("0") or "0"
    return f"-{digits}" if integer.strip().startswith("-") and digits != "0" else digits
