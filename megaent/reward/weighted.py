"""Several verifiers at once: a weighted sum of rewards, and the verdict of the first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from megaent.errors import ConfigError
from megaent.types import Grade, Group

_PART = re.compile(r"\s*(?:(?P<weight>\d+(?:\.\d+)?|\.\d+)\s*\*\s*)?(?P<name>[a-z_]+)\s*")


class Part(NamedTuple):
    name: str
    weight: float


class Verifier(Protocol):
    def grade(self, groups: Sequence[Group]) -> list[Group]: ...

    def close(self) -> None: ...


def read_parts(text: str) -> list[Part]:
    """``math+0.1*boxed``. Raises ConfigError for what is no such sum, or names a verifier twice."""
    matches = [_PART.fullmatch(part) for part in text.split("+")]
    parts = [Part(match["name"], float(match["weight"] or 1)) for match in matches if match]
    if len(parts) < len(matches) or len({part.name for part in parts}) < len(parts):
        raise ConfigError(f"a reward is a sum such as math+0.1*boxed, each verifier once, got {text!r}")
    if not all(part.weight for part in parts):
        raise ConfigError(f"a weight of 0 has no effect; leave that part of {text!r} out")
    return parts


@dataclass(frozen=True, kw_only=True)
class Weighted:
    """Correct is what the first verifier calls so; no verdict where any of them failed."""

    parts: tuple[tuple[Verifier, float], ...]

    def grade(self, groups: Sequence[Group]) -> list[Group]:
        graded = [verifier.grade(groups) for verifier, _ in self.parts]
        weights = [weight for _, weight in self.parts]
        return [
            replace(
                group,
                grades=tuple(_sum(grades, weights) for grades in zip(*(g.grades for g in same), strict=True)),
            )
            for group, *same in zip(groups, *graded, strict=True)
        ]

    def close(self) -> None:
        for verifier, _ in self.parts:
            verifier.close()


def _sum(grades: Sequence[Grade], weights: Sequence[float]) -> Grade:
    return replace(
        grades[0],
        reward=sum(weight * grade.reward for grade, weight in zip(grades, weights, strict=True)),
        note="; ".join(filter(None, (grade.note for grade in grades))),
        is_scored=all(grade.is_scored for grade in grades),
    )
