"""Braces and boxes: what the ``\\boxed{...}`` of a text hold; linear in the text."""

from __future__ import annotations

import re
from typing import NamedTuple

LONGEST_ANSWER = 1_000  # characters; a longer one is no final answer
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])\s*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BETWEEN = re.compile(r"[\s$.,;]|\\[()\[\],;]|\\q?quad|\\text(?:rm)?\{\s*(?:or|and)\s*\}|\b(?:or|and)\b|\*\*")
_WIDEST_GAP = 40  # characters between two boxes that are one answer
_MOST_BOXES = 16  # that are looked at, from the end


class Box(NamedTuple):
    start: int  # of the command
    end: int  # after what closes it; of the text when nothing does
    content: str | None  # None when it is not closed


def last_boxes(text: str) -> list[Box]:
    """The last box and those joined to it by "or", "and" or a comma, in their order; [] for none."""
    found: list[Box] = []
    for start in reversed(list(_BOX.finditer(text))[-_MOST_BOXES:]):
        box = _box(text, start)
        if found and box.end > found[0].start:
            # One around the other: the inner one, when there is nothing else.
            if box.content is not None and box.content != text[found[0].start : found[-1].end].strip():
                found = [box]
        elif not found or _joins(text[box.end : found[0].start]):
            found.insert(0, box)
        else:
            break
    return found


def boxed(text: str) -> str | None:
    """What the last box holds; joined ones as a list; None where there is none or it is not closed."""
    contents = [box.content for box in last_boxes(text)]
    if not contents or contents[-1] is None:
        return None
    return ", ".join(content for content in contents if content)


def is_balanced(text: str) -> bool:
    return closing_brace(f"{{{text}}}", 0) == len(text) + 1


def closing_brace(text: str, start: int) -> int | None:
    """The place of the brace that closes the one at ``start``."""
    depth = 0
    for found in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(found.group(), 0)
        if depth == 0 and found.group() == "}":
            return found.start()
    return None


def _box(text: str, found: re.Match[str]) -> Box:
    start = found.end()
    if text[start : start + 1] != "{":
        # \boxed 7: one word.
        word = re.compile(r"[^\s$]*").match(text, start)
        assert word is not None
        return Box(found.start(), word.end(), word.group() or None)
    end = closing_brace(text, start)
    if end is None:
        return Box(found.start(), len(text), None)
    return Box(found.start(), end + 1, text[start + 1 : end].strip())


def _joins(gap: str) -> bool:
    return len(gap) <= _WIDEST_GAP and bool(re.search(r"or|and|,", gap)) and not _BETWEEN.sub("", gap)
