"""Mathematical answers: found in the text by position, compared by mathematics where looking is not enough.

Integers and equal strings, which are most answers, are decided here; the rest goes to checker
processes (``checker_pool``), each distinct question once a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from megaent.answers.final_answer import LONGEST_ANSWER, canonical, find_answer, plainly_equal
from megaent.reward.checker_pool import CheckerPool, Verdict
from megaent.types import Grade, Group


class MathAnswer:
    """Reward 1 when the final answer of the response equals the key, else 0."""

    def __init__(self, *, timeout_s: float = 5.0, workers: int = 2, memory_mib: int = 2048) -> None:
        self._pool = CheckerPool(workers=workers, timeout_s=timeout_s, memory_mib=memory_mib)

    def grade(self, groups: Sequence[Group]) -> list[Group]:
        answers = [[find_answer(r.text) for r in group.responses] for group in groups]
        pairs = [(g.prompt.answer, a) for g, row in zip(groups, answers, strict=True) for a in row]
        verdicts = self._judge(pairs)
        grades = iter(
            Grade(reward=float(v.correct), correct=v.correct, note=v.note, answer=_said(answer))
            for (_, answer), v in ((pair, verdicts[pair]) for pair in pairs)
        )
        return [replace(group, grades=tuple(next(grades) for _ in group.responses)) for group in groups]

    def close(self) -> None:
        self._pool.close()

    def _judge(self, pairs: Sequence[tuple[str, str | None]]) -> dict[tuple[str, str | None], Verdict]:
        verdicts: dict[tuple[str, str | None], Verdict] = {}
        unsure: list[tuple[str, str]] = []
        for key, answer in dict.fromkeys(pairs):
            if answer is None:
                verdicts[key, answer] = Verdict(correct=False, note="no answer found")
            elif len(answer) > LONGEST_ANSWER:
                verdicts[key, answer] = Verdict(correct=False, note="answer too long")
            elif (equal := plainly_equal(key, answer)) is not None:
                verdicts[key, answer] = Verdict(correct=equal)
            else:
                unsure.append((key, answer))
        verdicts.update(zip(unsure, self._pool.check(unsure), strict=True))
        return verdicts


def _said(answer: str | None) -> str:
    """``Grade.answer``: made without the key, so that what is equal does not tell what is correct."""
    return "" if answer is None or len(answer) > LONGEST_ANSWER else canonical(answer)
