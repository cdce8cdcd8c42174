"""The seam between the loop and whatever decides how good a response is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from megaent.errors import ConfigError
from megaent.reward.exact import ExactAnswer, final_number, first_integer, last_result
from megaent.reward.math_answer import MathAnswer
from megaent.types import Group


class Reward(Protocol):
    """Grades responses by their text, which the caller has filled in."""

    def grade(self, groups: Sequence[Group]) -> list[Group]:
        """The groups, in their order, with one grade per response."""
        ...

    def close(self) -> None:
        """Release processes; harmless when called twice."""
        ...


GRADERS: dict[str, Callable[..., Reward]] = {
    "final_number": lambda: ExactAnswer(read=final_number),
    "last_result": lambda: ExactAnswer(read=last_result),
    "first_integer": lambda: ExactAnswer(read=first_integer),
    "math": MathAnswer,
}


def make_reward(grader: str, **options: object) -> Reward:
    """The grader of that name; ``Task.grader`` and ``Task.grader_options`` hold both."""
    if grader not in GRADERS:
        raise ConfigError(f"grader must be one of {', '.join(GRADERS)}, got {grader!r}")
    return GRADERS[grader](**options)
