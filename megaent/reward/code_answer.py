"""Python programs against tests: run in a sandbox, judged out here by what they wrote and returned."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from megaent.sandbox.isolation import read_given_up
from megaent.sandbox.limits import Limits
from megaent.sandbox.pool import Job, Outcome, Sandbox
from megaent.sandbox.tests import CodeTests, stored_tests
from megaent.sandbox.values import value_of
from megaent.types import Grade, Group

_WALL_FACTOR = 4  # of the processor time, for machines that share their cores
_BLOCK = re.compile(
    r"^[ \t]*```[ \t]*(?:python3?|py)?[ \t]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE | re.I
)
_SHOWN = 100  # characters of an error in a note


class CodeAnswer:
    """Reward 1 when the program of the response passes every test of the key, else 0.

    The program is the last fenced block of Python after the thinking. ``timeout_s`` is processor time for one
    input, or for all calls; ``memory_mib`` is of addresses; ``without`` names isolation that is given up
    (``megaent.sandbox.isolation.GIVEN_UP``). What the sandbox fails at after three tries is not scored.
    """

    def __init__(
        self, *, timeout_s: float = 2.0, memory_mib: int = 512, workers: int = 2, without: str = ""
    ) -> None:
        self._sandbox = Sandbox(workers=workers, without=read_given_up(without))
        self._limits = Limits(cpu_s=timeout_s, wall_s=_WALL_FACTOR * timeout_s + 2, memory_mib=memory_mib)

    def grade(self, groups: Sequence[Group]) -> list[Group]:
        cases = [
            [_Case(find_program(r.text), group.prompt.answer) for r in group.responses] for group in groups
        ]
        grades = self._judge(dict.fromkeys(case for row in cases for case in row))
        return [
            replace(group, grades=tuple(grades[case] for case in row))
            for group, row in zip(groups, cases, strict=True)
        ]

    def close(self) -> None:
        self._sandbox.close()

    def _judge(self, cases: dict[_Case, None]) -> dict[_Case, Grade]:
        """One test of every program at a time, until none has one left or all have failed."""
        grades = {case: _no_program() for case in cases if case.program is None}
        waiting = {case: _Trial(case, stored_tests(case.key)) for case in cases if case.program is not None}
        while waiting:
            jobs = [trial.job(self._limits) for trial in waiting.values()]
            for case, outcome in zip(list(waiting), self._sandbox.run(jobs), strict=True):
                grade = waiting[case].take(outcome)
                if grade is not None:
                    grades[case] = grade
                    del waiting[case]
        return grades


def find_program(text: str) -> str | None:
    """The last whole block of Python in a response, after its thinking."""
    blocks = _BLOCK.findall(text.rpartition("</think>")[2])
    return blocks[-1] if blocks and blocks[-1].strip() else None


class _Case(NamedTuple):
    program: str | None
    key: str


class _Trial:
    """One program and the tests that it has still to pass."""

    def __init__(self, case: _Case, tests: CodeTests) -> None:
        self._program, self._tests, self._passed = case.program or "", tests, 0

    def job(self, limits: Limits) -> Job:
        if self._tests.calls:
            calls = tuple(call for call, _ in self._tests.calls)
            return Job(source=self._program, calls=calls, limits=limits)
        return Job(source=self._program, input=self._tests.inputs[self._passed][0], limits=limits)

    def take(self, outcome: Outcome) -> Grade | None:
        """The verdict on the program; None while there are more inputs to try."""
        if outcome.failure:
            return self._grade(False, f"the sandbox failed: {outcome.failure}", is_scored=False)
        ended = _how_it_ended(outcome)
        if self._tests.calls:
            wrong = _wrong_call(outcome.values, self._tests)
            return self._grade(not ended and not wrong, ended or wrong)
        if ended or not same_output(outcome.output, self._tests.inputs[self._passed][1]):
            return self._grade(False, f"test {self._passed + 1}: {ended or 'another output'}")
        self._passed += 1
        return self._grade(True, "") if self._passed == len(self._tests.inputs) else None

    def _grade(self, correct: bool, note: str, *, is_scored: bool = True) -> Grade:
        said = hashlib.sha256("\n".join(map(str.rstrip, self._program.strip().splitlines())).encode())
        return Grade(
            reward=float(correct),
            correct=correct,
            note=note,
            answer=said.hexdigest()[:16],
            is_scored=is_scored,
        )


def _no_program() -> Grade:
    return Grade(reward=0.0, correct=False, note="no answer found")


def _how_it_ended(outcome: Outcome) -> str:
    if outcome.stopped_for:
        return {"time": "timed out", "output": "too much output"}[outcome.stopped_for]
    if outcome.code < 0:
        return f"killed by signal {-outcome.code}"
    said = [line.strip() for line in outcome.errors.splitlines() if line.strip()]
    last = "".join(sign if sign.isprintable() else " " for sign in said[-1][:_SHOWN]) if said else ""
    return f"ended with code {outcome.code}" + (f": {last}" if last else "") if outcome.code else ""


# ---------------------------------------------------------------- the same answer


def same_output(said: str, expected: str) -> bool:
    """Line by line, but for spaces at the ends of lines and empty lines at the end."""
    return _lines(said) == _lines(expected)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _wrong_call(values: str, tests: CodeTests) -> str:
    """ "" where every call returned what it should."""
    lines = values.splitlines()
    for place, (_, expected) in enumerate(tests.calls):
        if place >= len(lines):
            return f"call {place + 1}: no value"
        if not _is_value(lines[place], expected, takes_tuples=tests.takes_tuples):
            return f"call {place + 1}: another value"
    return "" if len(lines) == len(tests.calls) else "more values than calls"


def _is_value(line: str, expected: object, *, takes_tuples: bool) -> bool:
    try:
        value = value_of(json.loads(line))
        return (_without_tuples(value) if takes_tuples else value) == expected
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return False  # the program wrote it itself


def _without_tuples(value: object) -> object:
    if isinstance(value, list | tuple):
        return [_without_tuples(entry) for entry in value]
    return value
