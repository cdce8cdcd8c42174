"""Answers to reasoning-gym's items, judged by their task's own verifier: right or wrong, nothing between.

37 of the tasks pay well-formed wrong answers something, up to .96 of a right one; a model trained on that
learns the form. So only full marks count, and three verifiers that give them for nothing are replaced
(``megaent.puzzles.answers``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace

from megaent.puzzles.puzzles import Item, Judged, Puzzles
from megaent.types import Grade, Group

_ANSWER = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)


class PuzzleAnswer:
    """Reward 1 when the last ``<answer>`` after the thinking is right, else 0."""

    def __init__(self, *, workers: int = 2) -> None:
        self._puzzles = Puzzles(workers=workers)

    def grade(self, groups: Sequence[Group]) -> list[Group]:
        cases = [(group.prompt.answer, stated_answer(r.text)) for group in groups for r in group.responses]
        asked = [case for case in dict.fromkeys(cases) if case[1] is not None]
        items = {key: Item(**json.loads(key)) for key, _ in asked}
        judged = self._puzzles.judge([(items[key], answer or "") for key, answer in asked])
        verdicts = dict(zip(asked, judged, strict=True))
        grades = iter([_grade(answer, verdicts.get((key, answer))) for key, answer in cases])
        return [replace(group, grades=tuple(next(grades) for _ in group.responses)) for group in groups]

    def close(self) -> None:
        self._puzzles.close()


def stated_answer(text: str) -> str | None:
    found = _ANSWER.findall(text.rpartition("</think>")[2])
    return found[-1].strip() if found and found[-1].strip() else None


def _grade(answer: str | None, judged: Judged | None) -> Grade:
    if answer is None or judged is None:
        return Grade(reward=0.0, correct=False, note="no answer found")
    if judged.failure:
        note = f"the verifier failed: {judged.failure}"
        return Grade(reward=0.0, correct=False, note=note, answer=answer, is_scored=False)
    return Grade(reward=float(judged.correct), correct=judged.correct, note=judged.note, answer=answer)
