"""What became of each answer from one model to the other: its verdict, its length, its steps.

The view of EGRC's figure 4 (arXiv:2511.14258): how much shorter responses became where the verdict stayed,
and where it turned.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean

from megaent.types import Grade, Group, Response

_STEP = re.compile(r"\n\s*\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """Pairs of responses whose verdict went from ``before``, the base's, to ``after``."""

    before: bool  # correct
    after: bool
    pairs: int
    share: float  # of all pairs
    base_length: float  # mean tokens of a response
    length: float
    base_steps: float  # mean number of parts between empty lines
    steps: float


@dataclass(frozen=True, slots=True)
class _Side:
    correct: bool
    tokens: int
    steps: int


def transitions(ours: Mapping[str, Group], base: Mapping[str, Group]) -> tuple[Transition, ...]:
    """Of groups by prompt; those that both answered, sample i with sample i, where both have a verdict.

    Equal samples of two evaluations are drawn with equal seeds. In the order kept, lost, gained, never;
    what did not happen is left out.
    """
    pairs = list(_pairs(ours, base))
    found = (
        _transition([pair for pair in pairs if (pair[0].correct, pair[1].correct) == verdicts], len(pairs))
        for verdicts in ((True, True), (True, False), (False, True), (False, False))
    )
    return tuple(transition for transition in found if transition is not None)


def _pairs(ours: Mapping[str, Group], base: Mapping[str, Group]) -> Iterator[tuple[_Side, _Side]]:
    for name in base.keys() & ours.keys():
        samples = zip(_samples(base[name]), _samples(ours[name]), strict=False)
        for (base_response, base_grade), (response, grade) in samples:
            if base_grade.is_scored and grade.is_scored:
                yield _side(base_response, base_grade), _side(response, grade)


def _samples(group: Group) -> Iterator[tuple[Response, Grade]]:
    return zip(group.responses, group.grades, strict=True)


def _side(response: Response, grade: Grade) -> _Side:
    steps = sum(bool(part.strip()) for part in _STEP.split(response.text))
    return _Side(grade.correct, len(response.tokens), steps)


def _transition(pairs: list[tuple[_Side, _Side]], total: int) -> Transition | None:
    if not pairs:
        return None
    before, after = zip(*pairs, strict=True)
    return Transition(
        before=before[0].correct,
        after=after[0].correct,
        pairs=len(pairs),
        share=len(pairs) / total,
        base_length=fmean(side.tokens for side in before),
        length=fmean(side.tokens for side in after),
        base_steps=fmean(side.steps for side in before),
        steps=fmean(side.steps for side in after),
    )
