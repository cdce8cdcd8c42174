"""The responses that a run recorded for people, read back from its ``responses.md``."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from megaent.errors import DataError

_STEP = re.compile(r"## step (\d+)")
_HEAD = re.compile(
    r"reward (?P<reward>\S+) · \d+ tokens · \w+ · entropy \S+ nats · "
    r"answer (?P<key>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")(?: · (?P<note>.*))?"
)
_FENCE = re.compile(r"(`{3,})text")


class Recorded(NamedTuple):
    place: str  # "step 3, prompt 2"
    reward: float
    key: str
    question: str  # the prompt as the model read it
    response: str


def recorded_responses(path: Path) -> list[Recorded]:
    """Those in the ``responses.md`` of the run ``path``: of some prompts a step the first response."""
    file = path / "responses.md"
    if not file.is_file():
        raise DataError(
            f"{path} holds no responses.md; a run writes it when run.responses_kept is above 0, and nothing "
            "else of a run holds its responses"
        )
    lines = file.read_text(encoding="utf-8").split("\n")
    return list(_read(lines))


def _read(lines: list[str]) -> Iterator[Recorded]:
    step, number, place = "", 0, 0
    while place < len(lines):
        if found := _STEP.fullmatch(lines[place]):
            step, number = found.group(1), 0
        head = _HEAD.fullmatch(lines[place])
        place += 1
        if head is None:
            continue
        question, place = _fenced(lines, place)
        response, place = _fenced(lines, place)
        number += 1
        key = str(ast.literal_eval(head["key"]))
        yield Recorded(f"step {step}, prompt {number}", float(head["reward"]), key, question, response)


def _fenced(lines: list[str], place: int) -> tuple[str, int]:
    """(the text of the fence that opens at this line, the line after it); a file cut short ends the text."""
    opening = _FENCE.fullmatch(lines[place]) if place < len(lines) else None
    if opening is None:
        return "", place
    end = place + 1
    while end < len(lines) and lines[end] != opening.group(1):
        end += 1
    return "\n".join(lines[place + 1 : end]), end + 1
