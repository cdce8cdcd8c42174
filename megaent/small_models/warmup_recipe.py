"""What shapes a warmed-up model: its size, its schedule, and the lessons of one task.

Lessons hold no problem that is evaluated.
"""

from __future__ import annotations

import hashlib
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import ClassVar

from megaent.data import chain_sum, hidden_numbers, two_strategies, worked_sums
from megaent.data.chain_sum import ChainSumOptions
from megaent.data.hidden_numbers import HiddenNumbersOptions
from megaent.data.options import DataOptions
from megaent.data.two_strategies import TwoStrategiesOptions
from megaent.data.worked_sums import WorkedSumsOptions
from megaent.errors import ConfigError
from megaent.small_models.options import DemoModelOptions

RECIPE_VERSION = 1  # of the code that follows a recipe: a change of what it makes must change this number


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmupRecipe(ABC):
    """Everything that shapes the checkpoint, and nothing else; what one task adds is a subclass."""

    task: ClassVar[str]
    rope_theta: ClassVar[float] = 10_000.0  # base of the rotary position embedding

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    tie_embeddings: bool
    steps: int
    lr: float
    batch: int
    seed: int
    version: int = RECIPE_VERSION

    @property
    def name(self) -> str:
        text = json.dumps(asdict(self), sort_keys=True)
        return f"demo-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    @property
    @abstractmethod
    def vocabulary(self) -> tuple[str, ...]:
        """Words; the place of a word is its id."""

    @abstractmethod
    def lessons(self, rng: random.Random) -> Iterator[list[tuple[str, str]]]:
        """One batch of (problem, worked answer) for every step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainSumRecipe(WarmupRecipe):
    task: ClassVar[str] = "chain_sum"

    operands_min: int
    operands_max: int
    largest: int
    teacher_error: float

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return chain_sum.VOCABULARY

    def lessons(self, rng: random.Random) -> Iterator[list[tuple[str, str]]]:
        return chain_sum.lessons(
            steps=self.steps,
            batch=self.batch,
            lengths=range(self.operands_min, self.operands_max + 1),
            largest=self.largest,
            error=self.teacher_error,
            rng=rng,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoStrategiesRecipe(WarmupRecipe):
    task: ClassVar[str] = "two_strategies"
    # Its answers look a few tokens back, which slow rotations cannot tell apart.
    rope_theta: ClassVar[float] = 100.0

    modulus: int
    careful_share: float
    teacher_error: float

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return two_strategies.vocabulary(self.modulus)

    def lessons(self, rng: random.Random) -> Iterator[list[tuple[str, str]]]:
        return two_strategies.lessons(
            steps=self.steps,
            batch=self.batch,
            modulus=self.modulus,
            careful_share=self.careful_share,
            error=self.teacher_error,
            rng=rng,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkedSumsRecipe(WarmupRecipe):
    task: ClassVar[str] = "worked_sums"
    rope_theta: ClassVar[float] = 100.0  # as above

    modulus: int
    bare_share: float
    check_share: float
    teacher_error: float

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return two_strategies.vocabulary(self.modulus)

    def lessons(self, rng: random.Random) -> Iterator[list[tuple[str, str]]]:
        return worked_sums.lessons(
            steps=self.steps,
            batch=self.batch,
            modulus=self.modulus,
            bare_share=self.bare_share,
            check_share=self.check_share,
            error=self.teacher_error,
            rng=rng,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HiddenNumbersRecipe(WarmupRecipe):
    task: ClassVar[str] = "hidden_numbers"
    rope_theta: ClassVar[float] = 100.0  # as above

    modulus: int
    keys: int
    easy_belief: float
    hard_belief: float

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return hidden_numbers.vocabulary(self.modulus)

    def lessons(self, rng: random.Random) -> Iterator[list[tuple[str, str]]]:
        return hidden_numbers.lessons(
            steps=self.steps,
            batch=self.batch,
            modulus=self.modulus,
            keys=self.keys,
            easy_belief=self.easy_belief,
            hard_belief=self.hard_belief,
            rng=rng,
        )


_RECIPE_OF: dict[type[DataOptions], type[WarmupRecipe]] = {
    ChainSumOptions: ChainSumRecipe,
    TwoStrategiesOptions: TwoStrategiesRecipe,
    WorkedSumsOptions: WorkedSumsRecipe,
    HiddenNumbersOptions: HiddenNumbersRecipe,
}
RECIPES = tuple(_RECIPE_OF.values())


def recipe_of(model: DemoModelOptions, data: DataOptions) -> WarmupRecipe:
    if type(data) not in _RECIPE_OF:
        known = ", ".join(kind.task for kind in RECIPES)
        raise ConfigError(f"model=demo knows data={known}, got {type(data).__name__}")
    kind = _RECIPE_OF[type(data)]
    shared = {
        "hidden_size": model.hidden_size,
        "num_layers": model.num_layers,
        "num_heads": model.num_heads,
        "num_kv_heads": model.num_kv_heads,
        "intermediate_size": model.intermediate_size,
        "tie_embeddings": model.tie_embeddings,
        "steps": model.warmup_steps,
        "lr": model.warmup_lr,
        "batch": model.warmup_batch,
        "seed": model.warmup_seed,
    }
    # What the task adds has the names of its configuration.
    own = {item.name for item in fields(kind)} - shared.keys() - {"version"}
    return kind(**shared, **{name: getattr(data, name) for name in own})
