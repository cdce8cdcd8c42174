"""Which methods cannot be combined, and why; beyond what ``compose`` refuses because two parts set one slot.

Rules are data: each names what two parts have, not which methods they are, so a new method is covered
by what it is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from megaent.errors import ConfigError
from megaent.objective.compose import Part
from megaent.objective.cores import Clipped
from megaent.objective.covariance import DropFromBand
from megaent.objective.weights import EngineMismatch

Trait = Callable[[Part], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Two traits that do not go together, wherever in a composition they come from."""

    one: Trait
    other: Trait
    reason: str


def _replaces_groups(part: Part) -> bool:
    return part.sampling is not None


def _rolls_out_twice(part: Part) -> bool:
    return part.second_rollout is not None


def _weighs_by_mismatch(part: Part) -> bool:
    return any(isinstance(rule, EngineMismatch) for rule in part.weights)


def _draws_among_unclipped(part: Part) -> bool:
    return any(isinstance(rule, DropFromBand) for rule in part.weights)


def _clips_no_token(part: Part) -> bool:
    return part.core is not None and not isinstance(part.core, Clipped)


RULES = (
    Rule(
        one=_rolls_out_twice,
        other=_replaces_groups,
        reason="the second rollout asks the first prompts of a step again, and dynamic sampling replaces "
        "prompts",
    ),
    Rule(
        one=_rolls_out_twice,
        other=_weighs_by_mismatch,
        reason="the second rollout is drawn at another temperature, which the weights for a mismatch between "
        "engine and trainer would take for one",
    ),
    Rule(
        one=_draws_among_unclipped,
        other=_clips_no_token,
        reason="the first draws among tokens that the clip has not caught, and the second clips no token",
    ),
)


def refuse_pairs(parts: Mapping[str, Part]) -> None:
    """Raises ConfigError with the reason for the first two parts that a rule keeps apart."""
    for rule in RULES:
        ones = [name for name, part in parts.items() if rule.one(part)]
        others = [name for name, part in parts.items() if rule.other(part)]
        for one in ones:
            for other in others:
                if one != other:
                    raise ConfigError(f"{one} and {other} cannot be combined: {rule.reason}")
