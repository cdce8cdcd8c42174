"""Sums modulo a number: two of them are known by heart, more are only right when worked out.

    Q 3a ; 7b            what is 3 + 7, modulo 13?
    = 10                 at once: one look at two numbers
    Q 3a ; 7b ; 9c ; 5d  what is 3 + 7 + 9 + 5, modulo 13?
    = 4                  at once: a guess
    so a 3 ; b 7 = 10 ; c 9 = 6 ; d 5 = 11

A model of two layers learns to add two numbers at once, and never four. The warm-up teaches both ways of
answering and ends on answers at once, so that the careful way is known and seldom chosen. Easy problems
reward brevity and hard ones care: what is learnt depends on what becomes of the entropy of the first
token, where the way is chosen.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

from megaent.data.chain_sum import EOS, PAD, UNKNOWN
from megaent.data.options import DataOptions
from megaent.data.task import Task, alternate
from megaent.errors import DataError
from megaent.model_folder.tokenizer import load_tokenizer
from megaent.options import require
from megaent.randomness import draw_seed
from megaent.types import Prompt

EASY, HARD = (2,), (4, 5)  # numbers of a problem
FIRST_LETTERS, MOST_NUMBERS = 8, 5
LETTERS = "abcdefghijkl"  # a problem uses as many in a row as it has numbers
HELD_OUT = 128  # problems of each split
STYLES = ("terse", "steps", "check")

_MARKS = ("Q", ";", "=", "so", "chk")
_SLIPS = (1, -1, 2)  # what an erring result adds to the true one
_ADDING, _PREFERRING = 0.35, 0.85  # progress of the warm-up at which its second and third part begin
_ROUND = ("terse", "steps", "steps", "check")  # styles of consecutive batches, most work where most is learnt
_EASY_WHEN_TERSE = 0.6  # of the answers at once while they are learnt; others can only be guessed
_EASY_AT_LAST = 0.4


@dataclass
class TwoStrategiesOptions(DataOptions):
    """``data=two_strategies``: sums modulo a number, at once or in steps (docs/built_in_tasks.md)."""

    name: str = "two_strategies"
    train_prompts: int = 256
    easy_fraction: float = 0.75  # of the training prompts: two numbers; the others have four or five
    modulus: int = 13
    careful_share: float = 0.02  # of the answers that the warm-up ends on: those with steps
    teacher_error: float = 0.05  # per result of a teacher trace

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.train_prompts > 0, "data.train_prompts must be above 0: this task has millions, got 0")
        require(7 <= self.modulus <= 64, f"data.modulus must lie in 7 to 64, got {self.modulus}")
        for name in ("easy_fraction", "careful_share", "teacher_error"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"data.{name} must lie in [0, 1], got {value}")


class Problem(NamedTuple):
    """``Problem(2, (3, 7))`` is ``3c ; 7d``: the letters name the numbers and do not change the sum."""

    letter: int  # of the first number, its place in LETTERS
    numbers: tuple[int, ...]

    @property
    def named(self) -> list[tuple[str, int]]:
        return list(zip(LETTERS[self.letter :], self.numbers, strict=False))


class SumsOptions(Protocol):
    """Of a task whose problems are these sums, however they are answered."""

    name: str
    seed: int
    train_prompts: int
    easy_fraction: float
    modulus: int


def load_sums(config: SumsOptions, model_path: Path) -> Task:
    """The task, tokenised by the model's own tokenizer."""
    tokenizer = load_tokenizer(model_path)

    def prompts(problems: Sequence[Problem], split: str) -> list[Prompt]:
        return [
            Prompt(
                id=f"{config.name}/{config.modulus}/{problem_text(problem)[2:].replace(' ; ', '-')}",
                tokens=tokenizer.encode(problem_text(problem)),
                text=problem_text(problem),
                answer=str(sum(problem.numbers) % config.modulus),
                split=split,
            )
            for problem in problems
        ]

    num_easy = round(config.easy_fraction * config.train_prompts)
    easy = training_problems(EASY, config.modulus, number=num_easy, seed=config.seed)
    hard = training_problems(HARD, config.modulus, number=config.train_prompts - num_easy, seed=config.seed)
    return Task(
        train=(*prompts(easy, "easy"), *prompts(hard, "hard")),
        evaluation=alternate(
            prompts(held_out_problems(lengths, config.modulus), split)
            for lengths, split in ((EASY, "easy"), (HARD, "hard"))
        ),
        grader="last_result",
        stop_token_ids=tokenizer.end_ids,
        decode=tokenizer.decode,
        spell=tokenizer.spell,
        step_boundary=";",
    )


def vocabulary(modulus: int) -> tuple[str, ...]:
    """The place of a token is its id; a number is one token."""
    return (PAD, EOS, UNKNOWN, *_MARKS, *LETTERS, *map(str, range(modulus)))


# ---------------------------------------------------------------- problems


def problem_text(problem: Problem) -> str:
    """``Q 3a ; 7b``"""
    return "Q " + " ; ".join(f"{number}{letter}" for letter, number in problem.named)


@lru_cache(maxsize=16)
def held_out_problems(lengths: tuple[int, ...], modulus: int) -> tuple[Problem, ...]:
    """The problems that are evaluated and never trained on, lengths in turn; the same whatever the seed.

    A held-out problem is new, the numbers in it need not be: 128 of the 8 * 13^2 easy problems are held
    out, so nearly every pair of numbers is met in training, under other letters.
    """
    rng = random.Random(draw_seed("two_strategies held out", modulus, *lengths))
    return _distinct(lengths, HELD_OUT, lambda length: draw_problem(length, modulus, rng))


def training_problems(
    lengths: tuple[int, ...], modulus: int, *, number: int, seed: int
) -> tuple[Problem, ...]:
    """Distinct problems, lengths in turn, none of them held out."""
    room = sum(FIRST_LETTERS * modulus**length for length in lengths) - HELD_OUT
    if number > room // 2:
        raise DataError(
            f"data.train_prompts asks for {number} problems of {lengths[0]} numbers, and "
            f"data.modulus={modulus} leaves {room}, of which half can be drawn; lower the first or raise the "
            "second"
        )
    rng = random.Random(draw_seed(seed, "two_strategies train", modulus, *lengths))
    return _distinct(lengths, number, lambda length: training_problem(length, modulus, rng))


def training_problem(length: int, modulus: int, rng: random.Random) -> Problem:
    """One problem that is not held out."""
    split = EASY if length in EASY else HARD
    while (problem := draw_problem(length, modulus, rng)) in _held_out_set(split, modulus):
        pass
    return problem


def draw_problem(length: int, modulus: int, rng: random.Random) -> Problem:
    letter = rng.randrange(FIRST_LETTERS)
    return Problem(letter, tuple(rng.randrange(modulus) for _ in range(length)))


@lru_cache(maxsize=16)
def _held_out_set(lengths: tuple[int, ...], modulus: int) -> frozenset[Problem]:
    return frozenset(held_out_problems(lengths, modulus))


def _distinct(lengths: tuple[int, ...], number: int, draw: Callable[[int], Problem]) -> tuple[Problem, ...]:
    problems: dict[Problem, None] = {}
    while len(problems) < number:
        problems[draw(lengths[len(problems) % len(lengths)])] = None
    return tuple(problems)


# ---------------------------------------------------------------- the teacher


def teacher_trace(problem: Problem, *, style: str, modulus: int, error: float, rng: random.Random) -> str:
    """A worked answer in one of ``STYLES``; each of its results is wrong with probability ``error``."""
    if style == "terse":
        return f"= {slipped(sum(problem.numbers), modulus, error, rng)}"
    (letter, total), *others = problem.named
    words = ["so", letter, str(total)]
    for letter, number in others:
        total = slipped(total + number, modulus, error, rng)
        words += [";", letter, str(number), "=", str(total)]
        if style == "check":
            words += ["chk", str(total)]
    return " ".join(words)


def slipped(true: int, modulus: int, error: float, rng: random.Random) -> int:
    slip = rng.choice(_SLIPS) if rng.random() < error else 0
    return (true + slip) % modulus


def lessons(
    *, steps: int, batch: int, modulus: int, careful_share: float, error: float, rng: random.Random
) -> Iterator[list[tuple[str, str]]]:
    """A batch of (problem, worked answer) for every step of the warm-up, one style a batch until the last.

    First two numbers alone, to learn to add; then every length, to learn to look numbers up and to go
    on; at last the preference: answers at once but for ``careful_share``, half of which is checked.
    Short answers fill a batch with twice as many.
    """
    for step in range(steps):
        progress = step / steps
        turn = _ROUND[step % len(_ROUND)]
        is_long = _ADDING <= progress < _PREFERRING and turn != "terse"
        pairs = []
        for _ in range(batch if is_long else 2 * batch):
            if progress < _ADDING:
                style, easy_share = turn, 1.0
            elif progress < _PREFERRING:
                style, easy_share = turn, _EASY_WHEN_TERSE if turn == "terse" else 0.0
            else:
                shares = (1 - careful_share, careful_share / 2, careful_share / 2)
                style, easy_share = rng.choices(STYLES, shares)[0], _EASY_AT_LAST
            length = EASY[0] if rng.random() < easy_share else rng.randint(EASY[0], MOST_NUMBERS)
            problem = training_problem(length, modulus, rng)
            trace = teacher_trace(problem, style=style, modulus=modulus, error=error, rng=rng)
            pairs.append((problem_text(problem), trace))
        yield pairs
