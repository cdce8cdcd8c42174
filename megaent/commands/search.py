"""``sweep.trials=20 sweep.goals=[accuracy,-length]``: settings chosen one after the other by Optuna.

Its tree-structured Parzen estimator (Bergstra et al. 2011; for several goals Ozaki et al. 2020) draws from a
generator of a fixed seed and remembers nothing but what it is told. So the same command asks for the same
settings again, is told at once of those that are finished, and goes on where it was stopped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep

from megaent.errors import ConfigError, MissingDependency
from megaent.report.sweep_table import FORMS

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

_GOAL = re.compile(r"(?P<sign>-?)(?P<name>\w+)(?::(?P<low>[^:]+):(?P<high>[^:]+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One measure of the table: the larger the better, the smaller (``-length``), or within a band."""

    name: str
    sign: int = 1
    band: tuple[float, float] | None = None

    def loss(self, value: float) -> float:
        """Less is better; within the band it is 0, outside the distance to it."""
        if self.band is None:
            return -self.sign * value
        low, high = self.band
        return max(low - value, value - high, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchWords:
    """What the command asks for. ``space``: a list of values of a key, or Hydra's interval."""

    trials: int
    goals: tuple[Goal, ...]
    space: Mapping[str, Sequence[str] | IntervalSweep]
    seeds: tuple[str, ...]  # seed=0, …: every setting runs with each; () leaves the seed as it is


def read_goals(text: str) -> tuple[Goal, ...]:
    """``[accuracy,-length,entropy:0.3:0.8]``. Raises ConfigError."""
    goals = tuple(_goal(part.strip()) for part in text.strip("[]").split(","))
    names = [goal.name for goal in goals]
    if len(set(names)) < len(names):
        raise ConfigError(f"sweep.goals={text} names a measure twice; give one goal for each")
    return goals


def _goal(text: str) -> Goal:
    match = _GOAL.fullmatch(text)
    if match is None or match["name"] not in FORMS:
        raise ConfigError(
            f"sweep.goals has {text!r}; a goal is one of {', '.join(FORMS)}, with - before it where less is "
            "better, or a band: entropy:0.3:0.8"
        )
    sign = -1 if match["sign"] else 1
    if match["low"] is None:
        return Goal(name=match["name"], sign=sign)
    try:
        low, high = float(match["low"]), float(match["high"])
    except ValueError as error:
        raise ConfigError(f"sweep.goals has {text!r}; the ends of a band are numbers") from error
    if match["sign"] or not low < high:
        raise ConfigError(f"sweep.goals has {text!r}; a band has no sign, and its low end comes first")
    return Goal(name=match["name"], band=(low, high))


class Search:
    """Asks Optuna which setting comes next and tells it what came out."""

    def __init__(self, words: SearchWords) -> None:
        try:
            import optuna
        except ImportError as error:
            raise MissingDependency("Optuna is not installed; run `pip install 'megaent[sweeps]'`") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.words = words
        self._space = {key: _distribution(key, choices) for key, choices in words.space.items()}
        self._study = optuna.create_study(
            directions=[optuna.study.StudyDirection.MINIMIZE] * len(words.goals),
            sampler=optuna.samplers.TPESampler(seed=0),
        )
        self._failed = optuna.trial.TrialState.FAIL

    def ask(self) -> tuple[Trial, tuple[str, ...]]:
        """The next trial, and its setting as words in the order of their keys."""
        trial = self._study.ask(self._space)
        return trial, tuple(f"{key}={_text(trial.params[key])}" for key in sorted(self._space))

    def tell(self, trial: Trial, numbers: Mapping[str, float] | None) -> None:
        """``numbers``: the measures of the setting; None where none of its runs ended."""
        if numbers is None or any(goal.name not in numbers for goal in self.words.goals):
            self._study.tell(trial, state=self._failed)
        else:
            self._study.tell(trial, [goal.loss(numbers[goal.name]) for goal in self.words.goals])


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _distribution(key: str, choices: Sequence[str] | IntervalSweep) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(choices, IntervalSweep):
        return CategoricalDistribution(list(choices))
    kind = IntDistribution if isinstance(choices.start, int) else FloatDistribution
    try:
        return kind(choices.start, choices.end, log="log" in choices.tags)  # type: ignore[arg-type]
    except ValueError as error:
        ends = f"{choices.start} to {choices.end}"
        raise ConfigError(f"{key}: Optuna cannot draw from {ends}: {error}") from error
