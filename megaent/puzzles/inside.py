"""What runs in the sandbox, where reasoning-gym is loaded: items drawn, answers judged.

An item is (task, level, size, index): the index-th of a set of ``size`` with seed 0. Its generator's seed is
the index, so one line of integers holds all items of a task, whatever seed a set is given.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

from megaent.puzzles.answers import own_verdict

DEFAULT_LEVEL = -1


@lru_cache(maxsize=1)
def dataset(task: str, level: int, size: int) -> Any:
    from reasoning_gym.factory import CURRICULA, DATASETS

    kind, options = DATASETS[task]
    config = options()
    if level != DEFAULT_LEVEL:
        curriculum: Any = CURRICULA[task]()  # pyright: ignore[reportCallIssue]
        curriculum.set_global_level(level)
        config = curriculum.generate_configuration()
    config.seed, config.size = 0, size
    return kind(config)


def item_of(task: str, level: int, size: int, index: int) -> Any:
    """The same whatever was drawn before: some generators also ask Python's own."""
    random.seed(index)
    return dataset(task, level, size)[index]


def draw(task: str, level: int, size: int, first: int, count: int) -> list[tuple[str, str | None]]:
    """Questions with answers; an answer is None where the task states none."""
    items = [item_of(task, level, size, index) for index in range(first, first + count)]
    return [(item["question"], None if item["answer"] is None else str(item["answer"])) for item in items]


def judge(
    task: str, level: int, size: int, index: int, question: str, answer: str
) -> tuple[bool, float, str]:
    """Right or not, what reasoning-gym pays, and what went wrong inside its verifier."""
    source, item = dataset(task, level, size), item_of(task, level, size, index)
    if item["question"] != question:
        raise RuntimeError("the item was drawn by another version of reasoning-gym")
    own = own_verdict(task, answer, item)
    try:
        paid = float(source.score_answer(answer, item))
    except Exception as error:
        return False, 0.0, type(error).__name__
    return (paid == 1.0 if own is None else own), paid, ""
