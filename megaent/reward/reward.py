"""The seam between the loop and whatever decides how good a response is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from megaent.errors import ConfigError
from megaent.reward.by_text import ByText, has_thought, is_boxed, same_choice, same_text
from megaent.reward.code_answer import CodeAnswer
from megaent.reward.exact import ExactAnswer, final_number, first_integer, last_result
from megaent.reward.math_answer import MathAnswer
from megaent.reward.puzzle_answer import PuzzleAnswer
from megaent.reward.remote import RemoteVerifier
from megaent.reward.weighted import Weighted, read_parts
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
    "code": CodeAnswer,
    "remote": RemoteVerifier,
    "reasoning_gym": PuzzleAnswer,
    "exact": lambda: ByText(grade_one=same_text),
    "choice": lambda: ByText(grade_one=same_choice),
    "boxed": lambda: ByText(grade_one=is_boxed),
    "thought": lambda: ByText(grade_one=has_thought),
}


def make_reward(grader: str, **options: object) -> Reward:
    """The grader of that name, or a sum of some: ``math+0.1*boxed``; the options are those of the first.

    ``Task.grader`` and ``Task.grader_options`` hold both.
    """
    require_grader(grader)
    first, *others = read_parts(grader)
    rewards = [GRADERS[first.name](**options), *(GRADERS[part.name]() for part in others)]
    if not others and first.weight == 1:
        return rewards[0]
    weights = [first.weight, *(part.weight for part in others)]
    return Weighted(parts=tuple(zip(rewards, weights, strict=True)))


def require_grader(grader: str) -> None:
    """Raises ConfigError for a verifier that there is not."""
    for part in read_parts(grader):
        if part.name not in GRADERS:
            raise ConfigError(f"grader must be one of {', '.join(GRADERS)}, got {part.name!r}")
