"""Indexed chain sums, a task that a model of 0.1 M parameters learns in a minute of one CPU core.

    Q a2 b1 c0 =            what is 2 + 1 + 0?
    b 1 = 3 ; c 0 = 3 ; A 3

Every integer is one token, and every operand carries a letter, so "the next operand" is a look-up and
not a matter of counting. Teacher traces come in three styles that differ in length alone, and each of
their steps errs with a given probability: what is left to reinforcement learning is to be right, and
to choose how much to write.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from megaent.data.options import DataOptions
from megaent.data.task import Task, alternate
from megaent.errors import DataError
from megaent.model_folder.tokenizer import load_tokenizer
from megaent.options import require
from megaent.randomness import draw_seed
from megaent.types import Prompt

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
LETTERS = "abcdefgh"
LARGEST_NUMBER = 45
_MARKS = ("Q", "+", "=", ";", "A", "so", "chk")
VOCABULARY = (PAD, EOS, UNKNOWN, *_MARKS, *LETTERS, *map(str, range(LARGEST_NUMBER + 1)))
"""64 tokens; the place of a token is its id."""

STYLES = ("terse", "steps", "check")
HELD_OUT_FRACTION = 0.25
HELD_OUT_LIMIT = 128  # problems of one length; more would tell little more and cost training problems

Operands = tuple[int, ...]
_SLIPS = (1, -1, 2)  # what an erring step adds to the true sum


@dataclass
class ChainSumOptions(DataOptions):
    """``data=chain_sum``: indexed chain sums, one token an integer (docs/built_in_tasks.md)."""

    name: str = "chain_sum"
    train_prompts: int = 1024
    operands_min: int = 2
    operands_max: int = 6
    largest: int = 3  # operands are 0 … largest
    teacher_error: float = 0.2  # per step of a teacher trace

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            2 <= self.operands_min <= self.operands_max <= 8,
            "data.operands_min and data.operands_max must satisfy 2 <= min <= max <= 8, got "
            f"{self.operands_min} and {self.operands_max}",
        )


def load_chain_sum(config: ChainSumOptions, model_path: Path) -> Task:
    """The task, tokenised by the model's own tokenizer."""
    tokenizer = load_tokenizer(model_path)
    lengths = range(config.operands_min, config.operands_max + 1)
    splits = {n: split_problems(n, config.largest) for n in lengths}

    def prompts(problems: Sequence[Operands]) -> list[Prompt]:
        return [_prompt(operands, tokenizer.encode(problem_text(operands))) for operands in problems]

    train = {n: _shuffled(train, config.seed) for n, (train, _) in splits.items()}
    shares = even_shares({n: len(problems) for n, problems in train.items()}, total=config.train_prompts)
    return Task(
        train=tuple(p for n, problems in train.items() for p in prompts(problems[: shares[n]])),
        evaluation=alternate(prompts(held_out) for _, held_out in splits.values()),
        grader="final_number",
        stop_token_ids=tokenizer.end_ids,
        decode=tokenizer.decode,
        spell=tokenizer.spell,
        step_boundary=";",
    )


def _prompt(operands: Operands, tokens: Sequence[int]) -> Prompt:
    text = problem_text(operands)
    return Prompt(
        id=f"chain_sum/{text[2:-2].replace(' ', '-')}",
        tokens=tuple(tokens),
        text=text,
        answer=str(sum(operands)),
        split=f"n={len(operands)}",
    )


# ---------------------------------------------------------------- problems


def problem_text(operands: Operands) -> str:
    """``Q a2 b1 c0 =``"""
    return " ".join(["Q", *(f"{letter}{x}" for letter, x in zip(LETTERS, operands, strict=False)), "="])


def split_problems(n: int, largest: int) -> tuple[list[Operands], list[Operands]]:
    """The training and the held-out problems of one length; a property of the task, whatever the seed.

    A quarter of the problems that there are, at most 128, is held out, by a hash of the problem. Sums
    of two numbers from 0 .. 3 are only 16, so their held-out problems are 4: a table over all lengths
    leans on the longer ones.
    """
    if n * largest > LARGEST_NUMBER:
        raise DataError(
            f"{n} operands up to {largest} can sum to {n * largest}, but the vocabulary counts to "
            f"{LARGEST_NUMBER}; lower data.operands_max or data.largest"
        )
    problems = list(product(range(largest + 1), repeat=n))
    ranked = sorted(problems, key=lambda operands: draw_seed("chain_sum held out", *operands))
    num_held_out = min(math.ceil(HELD_OUT_FRACTION * len(ranked)), HELD_OUT_LIMIT)
    return ranked[num_held_out:], ranked[:num_held_out]


def _shuffled(problems: Sequence[Operands], seed: int) -> list[Operands]:
    return sorted(problems, key=lambda operands: draw_seed(seed, "chain_sum train", *operands))


def even_shares(sizes: Mapping[int, int], *, total: int) -> dict[int, int]:
    """``total`` spread over bins as evenly as their sizes allow; 0, or more than all, takes everything."""
    shares: dict[int, int] = {}
    left = total or sum(sizes.values())
    # The smallest bin first: what it cannot hold is spread over the larger ones.
    for num_done, (name, size) in enumerate(sorted(sizes.items(), key=lambda item: item[1])):
        shares[name] = min(size, math.ceil(left / (len(sizes) - num_done)))
        left -= shares[name]
    return shares


# ---------------------------------------------------------------- the teacher


def teacher_trace(operands: Operands, *, style: str, error: float, rng: random.Random) -> str:
    """A worked answer in one of ``STYLES``; each step is wrong with probability ``error``."""
    total = operands[0]
    words: list[str] = []
    for letter, x in zip(LETTERS[1:], operands[1:], strict=False):
        result = _slipped(total + x, error, rng)
        words += _step_words(style, letter, x, total, result)
        total = result
    return " ".join([*words, "A", str(total)])


def _step_words(style: str, letter: str, x: int, total: int, result: int) -> Iterator[str]:
    terse = [letter, str(x), "=", str(result), ";"]
    if style == "terse":
        return iter(terse)
    step = [letter, str(total), "+", *terse]
    return iter(step if style == "steps" else [*step, "so", "chk", *step[1:]])


def _slipped(true: int, error: float, rng: random.Random) -> int:
    if rng.random() >= error:
        return true
    return min(max(true + rng.choice(_SLIPS), 0), LARGEST_NUMBER)


def lessons(
    *, steps: int, batch: int, lengths: Sequence[int], largest: int, error: float, rng: random.Random
) -> Iterator[list[tuple[str, str]]]:
    """A batch of (problem, worked answer) for every step of the warm-up, of training problems alone."""
    problems = [split_problems(n, largest)[0] for n in lengths]
    for step in range(steps):
        # One style a batch keeps padding small; the short styles fill it with twice as many traces.
        style = STYLES[step % len(STYLES)]
        pairs = []
        for _ in range(batch if style == "check" else 2 * batch):
            operands = rng.choice(rng.choice(problems))
            trace = teacher_trace(operands, style=style, error=error, rng=rng)
            pairs.append((problem_text(operands), trace))
        yield pairs
