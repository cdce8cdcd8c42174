"""What a person should look at in answer keys and graded responses.

A key that is not understood is compared as text and by math-verify alone; a grade on which our grader and
math-verify's defaults disagree is where one of them errs; what is paid for least and what is refused at most
length is where a grader is most often fooled, and most often unfair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from megaent.answers.find import TAIL, find_answer
from megaent.answers.key import read_key
from megaent.answers.read import read
from megaent.answers.reading import Items, Matrix, Quantity, Relation, Union, Word
from megaent.data.files import read_objects
from megaent.data.forms import read_form
from megaent.errors import DataError
from megaent.reward.checker_pool import CheckerPool
from megaent.reward.math_answer import MathAnswer
from megaent.run.recorded import recorded_responses
from megaent.types import Grade, Group, Prompt, Response

RESPONSE_KEYS = ("response", "responses", "completion", "completions", "output", "prediction")
_KINDS = {Quantity: "number or expression", Word: "word", Items: "list, point or interval", Union: "union",
          Matrix: "matrix", Relation: "equation or inequality"}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One response to one question; a data file's key, boxed, stands for its response."""

    place: str
    key: str
    question: str
    response: str
    is_key: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    case: Case
    grade: Grade
    by_defaults: bool  # math-verify's verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    source: str
    cases: list[Case] = field(default_factory=list)
    unusable: list[tuple[str, str]] = field(default_factory=list)  # (place, why)
    judged: list[Judged] = field(default_factory=list)

    @property
    def has_responses(self) -> bool:
        return any(not case.is_key for case in self.cases)

    def kinds(self) -> Counter[str]:
        return Counter(_kind(key) for key in {case.key for case in self.cases})

    def unread_keys(self) -> list[Case]:
        return [case for case in _first_of_each(self.cases, lambda case: case.key) if read(case.key) is None]

    def unread_answers(self) -> list[tuple[Case, str]]:
        found = [(case, find_answer(case.response) or "") for case in self.cases if not case.is_key]
        return [(case, answer) for case, answer in found if answer and read(answer) is None]

    def unanswered(self) -> int:
        return sum(judged.grade.note == "no answer found" for judged in self.judged if not judged.case.is_key)

    def disagreements(self) -> list[Judged]:
        return [judged for judged in self.judged if judged.grade.correct is not judged.by_defaults]

    def shortest_paid(self, count: int) -> list[Judged]:
        return sorted(self._of_responses(correct=True), key=lambda judged: len(judged.case.response))[:count]

    def longest_unpaid(self, count: int) -> list[Judged]:
        return sorted(self._of_responses(correct=False), key=lambda judged: -len(judged.case.response))[
            :count
        ]

    def _of_responses(self, *, correct: bool) -> list[Judged]:
        return [j for j in self.judged if not j.case.is_key and j.grade.correct is correct]


def find(path: Path) -> Findings:
    """The findings of a data file, of a file of responses or of a run directory."""
    findings = _of_run(path) if path.is_dir() else _of_file(path)
    if not findings.cases and not findings.unusable:
        raise DataError(f"{path} holds nothing to look at: no question with an answer, no response")
    findings.judged.extend(_judge(findings.cases))
    return findings


def _of_run(path: Path) -> Findings:
    cases = [
        Case(place=found.place, key=found.key, question=found.question, response=found.response)
        for found in recorded_responses(path)
    ]
    source = f"run {path}: responses.md, the first response to some prompts of each step"
    return Findings(source=source, cases=cases)


# ---------------------------------------------------------------- files


def _of_file(path: Path) -> Findings:
    findings = Findings(source=f"file {path}")
    for place, row in read_objects(path):
        short = place.removeprefix(f"{path} ")
        try:
            findings.cases.extend(_cases(short, row))
        except (DataError, ValueError) as error:
            findings.unusable.append((short, str(error)))
    return findings


def _cases(place: str, row: object) -> list[Case]:
    asked = read_form(row)
    key, question = read_key(asked.answer), asked.turns[-1][1]
    fields = row if isinstance(row, dict) else {}
    responses = next((fields[name] for name in RESPONSE_KEYS if name in fields), None)
    if responses is None or any(name in RESPONSE_KEYS for name in asked.form.split(", ")):
        return [Case(place=place, key=key, question="", response=f"\\boxed{{{key}}}", is_key=True)]
    texts = responses if isinstance(responses, list) else [responses]
    return [Case(place=place, key=key, question=question, response=str(text)) for text in texts]


# ---------------------------------------------------------------- verdicts


def _judge(cases: Sequence[Case]) -> Iterator[Judged]:
    ours, theirs = _by_us(cases), _by_defaults(cases)
    for case, grade, verdict in zip(cases, ours, theirs, strict=True):
        yield Judged(case=case, grade=grade, by_defaults=verdict)


def _by_us(cases: Sequence[Case]) -> list[Grade]:
    reward = MathAnswer()
    try:
        return [group.grades[0] for group in reward.grade([_group(n, case) for n, case in enumerate(cases)])]
    finally:
        reward.close()


def _group(index: int, case: Case) -> Group:
    response = Response(tokens=(), log_prob=(), finish="stop", version=0, text=case.response)
    prompt = Prompt(id=str(index), tokens=(), text=case.question, answer=case.key)
    return Group(index=index, prompt=prompt, responses=(response,))


def _by_defaults(cases: Sequence[Case]) -> list[bool]:
    pairs = [(case.key, case.response[-TAIL:]) for case in cases]
    distinct = list(dict.fromkeys(pairs))
    pool = CheckerPool(workers=2, timeout_s=2.0, arguments=("defaults",))
    try:
        verdicts = dict(zip(distinct, pool.check(distinct), strict=True))
    finally:
        pool.close()
    return [verdicts[pair].correct for pair in pairs]


def _kind(key: str) -> str:
    reading = read(key)
    return "not understood" if reading is None else _KINDS[type(reading)]


def _first_of_each(cases: Iterable[Case], by: Callable[[Case], str]) -> list[Case]:
    return list({by(case): case for case in reversed(list(cases))}.values())[::-1]
