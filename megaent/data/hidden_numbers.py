"""Keys that stand for numbers which no prompt says: found by trying, kept by not forgetting to try.

    Q ba + 3             what is ba + 3, modulo 13?  (here ba stands for 5)
    ba 5 ; 3 = 8         first what the key is taken to stand for, then the sum

The warm-up teaches to add, and for every key a belief: with ``easy_belief`` or ``hard_belief`` the true
number, else mostly a decoy, else any. So an easy key is right at first about as often as it is wrong,
and a hard one is right only when a rare number is tried before the policy has settled on the decoy.
There are many keys and each is found or not by itself, so what is found over all of them is a smooth
measure of exploration; the numbers added to a key are new where it is evaluated.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from megaent.data.chain_sum import EOS, PAD, UNKNOWN
from megaent.data.options import DataOptions
from megaent.data.task import Task, alternate
from megaent.model_folder.tokenizer import load_tokenizer
from megaent.options import require
from megaent.randomness import draw_seed
from megaent.types import Prompt

KEYS = tuple(first + second for second in "aeiou" for first in "bcdfghjklmnp")
HELD_OUT = 5  # of the numbers that are added to a key
_MARKS = ("Q", "+", ";", "=")
_DECOY = 0.5  # of the belief that is not in the true number


@dataclass
class HiddenNumbersOptions(DataOptions):
    """``data=hidden_numbers``: keys that stand for unsaid numbers (docs/built_in_tasks.md)."""

    name: str = "hidden_numbers"
    keys: int = 48  # the first half of them easy
    modulus: int = 13
    easy_belief: float = 0.5  # probability of the true number in a teacher trace
    hard_belief: float = 0.04

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            2 <= self.keys <= len(KEYS) and self.keys % 2 == 0,
            f"data.keys must be even and lie in 2 to {len(KEYS)}, got {self.keys}",
        )
        require(7 <= self.modulus <= 64, f"data.modulus must lie in 7 to 64, got {self.modulus}")
        for name in ("easy_belief", "hard_belief"):
            value = getattr(self, name)
            require(0 < value <= 1, f"data.{name} must lie in (0, 1], got {value}")


class Problem(NamedTuple):
    key: int  # its place in KEYS
    added: int


def load_hidden_numbers(config: HiddenNumbersOptions, model_path: Path) -> Task:
    """The task, tokenised by the model's own tokenizer."""
    tokenizer = load_tokenizer(model_path)

    def prompt(problem: Problem) -> Prompt:
        text = problem_text(problem)
        return Prompt(
            id=f"hidden_numbers/{config.modulus}/{text[2:].replace(' ', '')}",
            tokens=tokenizer.encode(text),
            text=text,
            answer=str((hidden_number(problem.key, config.modulus) + problem.added) % config.modulus),
            split="easy" if is_easy(problem.key, config.keys) else "hard",
        )

    problems = [Problem(key, added) for added in range(config.modulus) for key in range(config.keys)]
    held_out = [p for p in problems if is_held_out(p, config.modulus)]
    train = [p for p in problems if not is_held_out(p, config.modulus)]
    train.sort(key=lambda p: draw_seed(config.seed, "hidden_numbers train", *p))
    return Task(
        train=tuple(map(prompt, train[: config.train_prompts or None])),
        evaluation=alternate(
            [prompt(p) for p in held_out if is_easy(p.key, config.keys) == easy] for easy in (True, False)
        ),
        grader="last_result",
        stop_token_ids=tokenizer.end_ids,
        decode=tokenizer.decode,
        spell=tokenizer.spell,
        step_boundary=";",
    )


def vocabulary(modulus: int) -> tuple[str, ...]:
    """The place of a token is its id; a key and a number are one token each."""
    return (PAD, EOS, UNKNOWN, *_MARKS, *KEYS, *map(str, range(modulus)))


# ---------------------------------------------------------------- problems


def problem_text(problem: Problem) -> str:
    """``Q ba + 3``"""
    return f"Q {KEYS[problem.key]} + {problem.added}"


def is_easy(key: int, keys: int) -> bool:
    return key < keys // 2


def hidden_number(key: int, modulus: int) -> int:
    """What the key stands for, whatever the seed."""
    return draw_seed("hidden_numbers", modulus, key) % modulus


def decoy(key: int, modulus: int) -> int:
    """The wrong number that is believed most."""
    away = 1 + draw_seed("hidden_numbers decoy", modulus, key) % (modulus - 1)
    return (hidden_number(key, modulus) + away) % modulus


def is_held_out(problem: Problem, modulus: int) -> bool:
    """Of every key's problems five are evaluated and never trained on."""
    ranked = sorted(
        range(modulus), key=lambda added: draw_seed("hidden_numbers held out", problem.key, added)
    )
    return problem.added in ranked[:HELD_OUT]


# ---------------------------------------------------------------- the teacher


def believed(key: int, belief: float, modulus: int, rng: random.Random) -> int:
    """The true number with probability ``belief``; of the rest half the decoy, half any other."""
    true, most_wrong = hidden_number(key, modulus), decoy(key, modulus)
    if rng.random() < belief:
        return true
    if rng.random() < _DECOY:
        return most_wrong
    return rng.choice([number for number in range(modulus) if number not in (true, most_wrong)])


def teacher_trace(problem: Problem, number: int, modulus: int) -> str:
    """``ba 5 ; 3 = 8``: the sum is always that of the number that was taken."""
    total = (number + problem.added) % modulus
    return f"{KEYS[problem.key]} {number} ; {problem.added} = {total}"


def lessons(
    *,
    steps: int,
    batch: int,
    modulus: int,
    keys: int,
    easy_belief: float,
    hard_belief: float,
    rng: random.Random,
) -> Iterator[list[tuple[str, str]]]:
    """``batch`` pairs of (problem, worked answer) for every step of the warm-up, none held out."""
    problems = [
        problem
        for problem in (Problem(key, added) for key in range(keys) for added in range(modulus))
        if not is_held_out(problem, modulus)
    ]
    for _ in range(steps):
        pairs = []
        for problem in rng.choices(problems, k=batch):
            belief = easy_belief if is_easy(problem.key, keys) else hard_belief
            number = believed(problem.key, belief, modulus, rng)
            pairs.append((problem_text(problem), teacher_trace(problem, number, modulus)))
        yield pairs
