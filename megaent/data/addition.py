"""Few-shot addition, a task with a learning signal for a real language model of 135 M parameters.

    3 + 4 = 7
    5 + 1 = 6
    2 + 2 = 4
    8 + 1 = 9
    6 + 3 =

The easy split has numbers of ``digits`` digits, the hard one of ``hard_digits``. Problems, a sum and
its mirror image counting as one, are either for training or held out; examples come from the training
side and never show the sum that is asked.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

from megaent.data.options import DataOptions
from megaent.data.task import Task, alternate
from megaent.errors import DataError
from megaent.model_folder.tokenizer import load_tokenizer
from megaent.options import require, require_positive
from megaent.randomness import draw_seed
from megaent.types import Prompt

HELD_OUT_SHARE = 4  # one problem in so many
EVALUATION_PROMPTS = 256  # of each split
ALL_TRAIN_PROMPTS = 2048  # what train_prompts=0 makes: with examples drawn at will there is no natural end


@dataclass
class AdditionOptions(DataOptions):
    """``data=addition``: few-shot addition for a real language model."""

    name: str = "addition"
    train_prompts: int = 2048
    digits: int = 1  # of the easy split
    hard_digits: int = 2  # of the hard split, evaluated beside the easy one
    hard_fraction: float = 0.0  # of the training prompts
    shots: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("data", digits=self.digits, hard_digits=self.hard_digits)
        require(
            0 <= self.hard_fraction <= 1,
            f"data.hard_fraction must lie in [0, 1], got {self.hard_fraction}",
        )


class Sum(NamedTuple):
    left: int
    right: int

    @property
    def is_held_out(self) -> bool:
        low, high = sorted(self)
        return draw_seed("addition held out", low, high) % HELD_OUT_SHARE == 0


def load_addition(config: AdditionOptions, model_path: Path) -> Task:
    """The task, tokenised by the model's own tokenizer."""
    if config.shots < 0:
        raise DataError(f"data.shots must be 0 or more, got {config.shots}")
    tokenizer = load_tokenizer(model_path)
    total = config.train_prompts or ALL_TRAIN_PROMPTS
    num_hard = round(config.hard_fraction * total)

    def prompts(split: str, digits: int, *, number: int, held_out: bool) -> list[Prompt]:
        # What a model is measured on stays the same whatever it is trained on.
        seed = 0 if held_out else config.seed
        questions = _questions(digits, shots=config.shots, held_out=held_out, seed=seed)
        distinct: dict[str, Sum] = {}
        # Without examples there are few prompts of one digit; then the loop ends with all of them.
        for text, asked in islice(questions, 10 * number):
            distinct[text] = asked
            if len(distinct) == number:
                break
        return [
            Prompt(
                id=f"addition/{split}/{asked.left}+{asked.right}/{draw_seed(text):016x}",
                tokens=tokenizer.encode(text),
                text=text,
                answer=str(asked.left + asked.right),
                split=split,
            )
            for text, asked in distinct.items()
        ]

    return Task(
        train=(
            *prompts("easy", config.digits, number=total - num_hard, held_out=False),
            *prompts("hard", config.hard_digits, number=num_hard, held_out=False),
        ),
        evaluation=alternate(
            prompts(split, digits, number=EVALUATION_PROMPTS, held_out=True)
            for split, digits in (("easy", config.digits), ("hard", config.hard_digits))
        ),
        grader="first_integer",
        stop_token_ids=tuple(sorted({*tokenizer.newline_ids(), *tokenizer.end_ids})),
        decode=tokenizer.decode,
        spell=tokenizer.spell,
        step_boundary="\n",
    )


def _questions(digits: int, *, shots: int, held_out: bool, seed: int) -> Iterator[tuple[str, Sum]]:
    """Endless prompts and what they ask, each drawn from its own seed."""
    for number in count():
        rng = random.Random(draw_seed(seed, "addition", digits, str(held_out), number))
        asked = _draw(digits, rng, held_out=held_out)
        examples: list[Sum] = []
        while len(examples) < shots:
            example = _draw(digits, rng, held_out=False)
            if sorted(example) != sorted(asked):
                examples.append(example)
        lines = [f"{a} + {b} = {a + b}\n" for a, b in examples]
        yield "".join([*lines, f"{asked.left} + {asked.right} ="]), asked


def _draw(digits: int, rng: random.Random, *, held_out: bool) -> Sum:
    smallest = 0 if digits == 1 else 10 ** (digits - 1)
    while True:
        drawn = Sum(rng.randrange(smallest, 10**digits), rng.randrange(smallest, 10**digits))
        if drawn.is_held_out == held_out:
            return drawn
