"""Sums modulo a number, worked out in steps that may each be written long or short.

    Q 3b ; 7c ; 9d               what is 3 + 7 + 9, modulo 13?
    so b 3 ; c 7 = 10 ; d 9 = 6                plain steps
    so b 3 ; c = 10 ; d = 6                    bare: the number is not copied
    so b 3 ; c 7 = 10 chk 10 ; d 9 = 6 chk 6   checked: the result is said twice

Every step has its form by itself, so the length of a right answer varies by a token or two at a time,
and a shorter right answer is always near. A bare step asks for a look-up and an addition at once, which
the small model gets wrong more often; a check buys nothing. Problems and splits are those of
`two_strategies`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from megaent.data.options import DataOptions
from megaent.data.two_strategies import EASY, HARD, Problem, problem_text, slipped, training_problem
from megaent.options import require

FORMS = ("bare", "plain", "check")
_ADDING = 0.35  # progress of the warm-up at which more than two numbers are met
_ANY_LENGTH = (*EASY, 3, *HARD)


@dataclass
class WorkedSumsOptions(DataOptions):
    """``data=worked_sums``: sums modulo a number in steps of three forms (docs/built_in_tasks.md)."""

    name: str = "worked_sums"
    train_prompts: int = 512
    easy_fraction: float = 0.5  # of the training prompts: two numbers; the others have four or five
    modulus: int = 13
    bare_share: float = 0.2  # of the steps of a teacher trace
    check_share: float = 0.5  # of the steps of a teacher trace; those left are plain
    teacher_error: float = 0.05  # per step of a teacher trace

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.train_prompts > 0, "data.train_prompts must be above 0: this task has millions, got 0")
        require(7 <= self.modulus <= 64, f"data.modulus must lie in 7 to 64, got {self.modulus}")
        for name in ("easy_fraction", "bare_share", "check_share", "teacher_error"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"data.{name} must lie in [0, 1], got {value}")
        shares = self.bare_share + self.check_share
        require(shares <= 1, f"data.bare_share + data.check_share must be at most 1, got {shares:g}")


# ---------------------------------------------------------------- the teacher


def teacher_trace(
    problem: Problem, forms: Sequence[str], *, modulus: int, error: float, rng: random.Random
) -> str:
    """A worked answer, a form of ``FORMS`` for every number after the first; a step errs with ``error``."""
    (letter, total), *others = problem.named
    words = ["so", letter, str(total)]
    for (letter, number), form in zip(others, forms, strict=True):
        total = slipped(total + number, modulus, error, rng)
        copied = [] if form == "bare" else [str(number)]
        words += [";", letter, *copied, "=", str(total)]
        if form == "check":
            words += ["chk", str(total)]
    return " ".join(words)


def lessons(
    *,
    steps: int,
    batch: int,
    modulus: int,
    bare_share: float,
    check_share: float,
    error: float,
    rng: random.Random,
) -> Iterator[list[tuple[str, str]]]:
    """``batch`` pairs of (problem, worked answer) for every step: two numbers first, then any."""
    shares = (bare_share, 1 - bare_share - check_share, check_share)
    for step in range(steps):
        lengths = EASY if step < _ADDING * steps else _ANY_LENGTH
        pairs = []
        for _ in range(batch):
            problem = training_problem(rng.choice(lengths), modulus, rng)
            forms = rng.choices(FORMS, shares, k=len(problem.numbers) - 1)
            trace = teacher_trace(problem, forms, modulus=modulus, error=error, rng=rng)
            pairs.append((problem_text(problem), trace))
        yield pairs
