"""``data=reasoning_gym``: tasks of reasoning-gym by name and difficulty; nothing evaluated is trained on.

Its seeds are no split: item i of seed s + 1 is item i + 1 of seed s. All items of a task are therefore drawn
from one line, each question once, and a hash of the question decides on which side it lies.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from megaent.data.options import DataOptions
from megaent.data.prompt_text import PromptText
from megaent.data.task import Task, alternate
from megaent.model_folder.tokenizer import Tokenizer, load_tokenizer
from megaent.options import MISSING, require, require_positive
from megaent.randomness import draw_seed
from megaent.types import Prompt

if TYPE_CHECKING:
    from megaent.puzzles.puzzles import Item

_DAY = datetime.date(2026, 1, 1)  # that a chat template's clock shows: these questions know no date
INSTRUCTION = (
    "Reason step by step and put the final answer, and nothing else, between <answer> and </answer>."
)


@dataclass
class ReasoningGymOptions(DataOptions):
    name: str = "reasoning_gym"
    tasks: str = MISSING  # names joined by commas (docs/reasoning_gym.md)
    level: int = -1  # of difficulty, from 0, in the task's own curriculum; -1 is the package's default
    items: int = 1000  # drawn of each task, for training and evaluation together
    eval_fraction: float = 0.1
    template: str = "chat"  # chat | plain

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.level >= -1, f"data.level must be 0 or more, or -1 for the default, got {self.level}")
        require_positive("data", items=self.items)
        require(
            0 < self.eval_fraction < 1, f"data.eval_fraction must lie in (0, 1), got {self.eval_fraction}"
        )
        require(
            self.template in ("chat", "plain"), f"data.template must be chat or plain, got {self.template!r}"
        )

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(name.strip() for name in self.tasks.split(",") if name.strip()))


def load_reasoning_gym(options: ReasoningGymOptions, model_path: Path, *, max_prompt_tokens: int) -> Task:
    from megaent.puzzles.puzzles import Puzzles

    tokenizer = load_tokenizer(model_path)
    puzzles = Puzzles()
    try:
        drawn = {name: puzzles.draw(name, level=options.level, size=options.items) for name in options.names}
    finally:
        puzzles.close()
    sides = {name: _split(items, options.eval_fraction) for name, items in drawn.items()}
    write = _Writer(tokenizer, options.template, max_prompt_tokens)
    train = [prompt for kept, _ in sides.values() for prompt in write.prompts(kept)]
    train.sort(key=lambda prompt: draw_seed(options.seed, "reasoning_gym order", prompt.id))
    return Task(
        train=tuple(train[: options.train_prompts or None]),
        evaluation=alternate([write.prompts(held_out) for _, held_out in sides.values()]),
        grader="reasoning_gym",
        stop_token_ids=tokenizer.end_ids,
        decode=tokenizer.decode,
        spell=tokenizer.spell,
        step_boundary="\n\n",
        notes=tuple(_note(name, drawn[name], *side) for name, side in sides.items()) + write.notes,
    )


def _split(items: Sequence[Item], eval_fraction: float) -> tuple[list[Item], list[Item]]:
    """Each question once, on the side that its hash says."""
    distinct = list({item.question: item for item in reversed(items)}.values())
    limit = eval_fraction * 2**63
    held_out = {
        item.question for item in distinct if draw_seed("reasoning_gym held out", item.question) < limit
    }
    return (
        [item for item in distinct if item.question not in held_out],
        [item for item in distinct if item.question in held_out],
    )


def _note(name: str, drawn: Sequence[Item], train: Sequence[Item], held_out: Sequence[Item]) -> str:
    copies = len(drawn) - len(train) - len(held_out)
    return f"{name}: {len(train)} items to train on, {len(held_out)} held out, {copies} copies left out"


class _Writer:
    def __init__(self, tokenizer: Tokenizer, template: str, limit: int) -> None:
        self._limit = limit
        self._text = PromptText(tokenizer, template, _DAY)
        self._too_long = 0

    @property
    def notes(self) -> tuple[str, ...]:
        return (f"{self._too_long} items are too long for the model and left out",) if self._too_long else ()

    def prompts(self, items: Sequence[Item]) -> list[Prompt]:
        """Those that fit; how many do not is told."""
        written = [self._prompt(item) for item in items]
        fitting = [prompt for prompt in written if len(prompt.tokens) <= self._limit]
        self._too_long += len(written) - len(fitting)
        return fitting

    def _prompt(self, item: Item) -> Prompt:
        asked = f"{item.question.rstrip()}\n\n{INSTRUCTION}"
        text = self._text.of((("user", asked),))
        name = f"{item.task}/{item.level}/{item.index}"
        return Prompt(id=name, tokens=self._text.tokens(text), text=text, answer=item.key, split=item.task)
