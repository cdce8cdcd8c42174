"""Mathematical answers: found in the text by position, compared by what they mean.

``megaent.answers`` reads and decides nearly all of them; what it cannot read goes to checker processes
(``checker_pool``), each distinct question once a call. An answer that is equal to the key but was taken over
from the question as it stood there is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from megaent.answers.boxes import LONGEST_ANSWER
from megaent.answers.compare import canonical, equal
from megaent.answers.copied import is_copied
from megaent.answers.find import find_answer
from megaent.answers.notation import rewrite
from megaent.reward.checker_pool import CheckerPool, Verdict
from megaent.types import Grade, Group


class _Case(NamedTuple):
    key: str
    answer: str | None
    question: str


class MathAnswer:
    """Reward 1 when the final answer of the response equals the key, else 0.

    ``timeout_s`` is processor time for one answer that our own reader leaves to a checker.
    """

    def __init__(self, *, timeout_s: float = 2.0, workers: int = 2, memory_mib: int = 2048) -> None:
        self._pool = CheckerPool(workers=workers, timeout_s=timeout_s, memory_mib=memory_mib)

    def grade(self, groups: Sequence[Group]) -> list[Group]:
        cases = [
            [_Case(group.prompt.answer, find_answer(r.text), group.prompt.text) for r in group.responses]
            for group in groups
        ]
        verdicts = self._judge([case for row in cases for case in row])
        return [
            replace(group, grades=tuple(_grade(case, verdicts[case]) for case in row))
            for group, row in zip(groups, cases, strict=True)
        ]

    def close(self) -> None:
        self._pool.close()

    def _judge(self, cases: Sequence[_Case]) -> dict[_Case, Verdict]:
        verdicts: dict[_Case, Verdict] = {}
        unsure: list[_Case] = []
        for case in dict.fromkeys(cases):
            verdict = _decide(case)
            if verdict is None:
                unsure.append(case)
            else:
                verdicts[case] = verdict
        verdicts.update(self._check(unsure))
        return {case: _refuse_copied(case, verdict) for case, verdict in verdicts.items()}

    def _check(self, cases: Sequence[_Case]) -> Iterator[tuple[_Case, Verdict]]:
        pairs = list(dict.fromkeys((_latex(case.key), _latex(case.answer or "")) for case in cases))
        verdicts = dict(zip(pairs, self._pool.check(pairs), strict=True))
        for case in cases:
            yield case, verdicts[_latex(case.key), _latex(case.answer or "")]


def _decide(case: _Case) -> Verdict | None:
    """What reading is enough for; None for the rest."""
    if case.answer is None:
        return Verdict(correct=False, note="no answer found")
    if len(case.answer) > LONGEST_ANSWER:
        return Verdict(correct=False, note="answer too long")
    found = equal(case.key, case.answer, question=case.question)
    return None if found is None else Verdict(correct=found)


def _refuse_copied(case: _Case, verdict: Verdict) -> Verdict:
    if verdict.correct and is_copied(case.answer or "", key=case.key, question=case.question):
        return Verdict(correct=False, note="copied from the question")
    return verdict


def _latex(text: str) -> str:
    """As the checker's grammar reads it: it would take a last letter for a unit."""
    latex = rewrite(text).replace("\\deg", "^{\\circ}")
    return latex + " \\cdot 1" if latex[-1:].isalpha() and not latex.endswith("\\infty") else latex


def _grade(case: _Case, verdict: Verdict) -> Grade:
    # Made without the key, so that what is equal does not tell what is correct.
    said = "" if case.answer is None or len(case.answer) > LONGEST_ANSWER else canonical(case.answer)
    return Grade(
        reward=float(verdict.correct),
        correct=verdict.correct,
        note=verdict.note,
        answer=said,
        is_scored=not verdict.is_failure,
    )
