"""The loop. One step: generate, grade, pack, score, estimate, update, publish."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from megaent.actor.actor import Actor, Placement
from megaent.data.prompts import PromptStream
from megaent.data.task import Task, decode_groups
from megaent.errors import DataError, NumericsError
from megaent.evaluate import EvaluationSummary, by_split, prompt_outcomes, summarise
from megaent.experience.describe import describe
from megaent.experience.pack import assign_minibatches, pack
from megaent.memory import peak_gib, reset_peak
from megaent.objective.compose import Method, estimate
from megaent.randomness import draw_seed
from megaent.reward.reward import Reward
from megaent.rollout.engine import RolloutEngine
from megaent.sync.publish import publish
from megaent.types import Experience, Group, Metrics, Prompt, RolloutRequest, SamplingParams, TokenTerms

Verb = TypeVar("Verb", bound=Callable[..., Any])


def timed(verb: Verb) -> Verb:
    """Measure a verb of the step under its own name."""

    @functools.wraps(verb)
    def measured(self: Trainer, *args: Any) -> Any:
        with self.clock.measure(verb.__name__):
            return verb(self, *args)

    return measured  # type: ignore[return-value]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one step leaves behind; every rank holds the metrics, each leader its own groups."""

    metrics: Metrics
    groups: list[Group]
    batch: Experience
    entropy_histogram: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """Everything a step needs. ``engine`` and ``reward`` exist on the leader of each replica only."""

    actor: Actor
    engine: RolloutEngine | None
    reward: Reward | None
    task: Task
    stream: PromptStream
    method: Method
    sampling: SamplingParams
    group_size: int
    num_minibatches: int
    seed: int
    mismatch_limit: float = 0.0  # nats, of the mean absolute mismatch; 0 only reports
    clock: Clock = field(default_factory=lambda: Clock())

    @property
    def layout(self) -> Placement:
        return self.actor.layout

    def step(self, step: int) -> StepReport:
        """One turn of the loop; a collective. Steps count from 1 and any step can be run first."""
        groups = self.generate(step)
        groups = self.grade(groups)
        batch = self.pack(groups)
        batch = self.score(batch)
        terms, metrics = self.estimate(batch)
        metrics |= self.update(batch, terms)
        self.publish(step)
        described, histogram = describe(batch, self.layout, vocab_size=self.actor.vocab_size)
        metrics |= described | {"version": float(step)}
        self._check_mismatch(metrics)
        metrics |= self.clock.take()
        metrics |= _rates(metrics)
        return StepReport(metrics=metrics, groups=groups, batch=batch, entropy_histogram=histogram)

    # ------------------------------------------------------------ the verbs

    @timed
    def generate(self, step: int) -> list[Group]:
        """This leader's share of the step's prompts, continued; peers have none."""
        if self.engine is None:
            return []
        mine = [
            item for item in self.stream.take(step - 1) if item[0] % self.layout.dp == self.layout.dp_rank
        ]
        return self.engine.generate(self._requests(mine, "rollout", step, self.group_size), self.sampling)

    @timed
    def grade(self, groups: list[Group]) -> list[Group]:
        if self.reward is None:
            return []
        return self.reward.grade(decode_groups(groups, self.task.decode))

    @timed
    def pack(self, groups: list[Group]) -> Experience:
        """The leader's groups as one packed batch, on every rank of its replica."""
        return self.layout.share(pack(groups) if self.layout.is_leader else None)

    @timed
    def score(self, batch: Experience) -> Experience:
        return self.actor.score(
            batch, temperature=self.sampling.temperature, with_reference=self.method.needs_reference
        )

    @timed
    def estimate(self, batch: Experience) -> tuple[TokenTerms, Metrics]:
        indices = self.layout.gather_over_replicas(batch.index.tolist())
        minibatch_P = assign_minibatches(batch.index, indices, self.num_minibatches)
        return estimate(
            self.method,
            batch,
            minibatch_S=minibatch_P[batch.group],
            num_minibatches=self.num_minibatches,
            population=self.layout,
        )

    @timed
    def update(self, batch: Experience, terms: TokenTerms) -> Metrics:
        return self.actor.update(
            batch,
            terms,
            self.method,
            temperature=self.sampling.temperature,
            num_minibatches=self.num_minibatches,
        )

    @timed
    def publish(self, version: int) -> None:
        publish(self.actor.named_weights(), self.engine, version)

    # ------------------------------------------------------------ evaluation

    def evaluate(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: SamplingParams, seed: int
    ) -> dict[str, EvaluationSummary]:
        """Sampled with fixed seeds; "all" and one entry per split. A collective."""
        mine = [(i, p) for i, p in enumerate(prompts) if i % self.layout.dp == self.layout.dp_rank]
        groups: list[Group] = []
        if self.engine is not None:
            requests = self._requests(mine, "evaluate", seed, group_size)
            groups = self.grade(self.engine.generate(requests, sampling))
        batch = self.actor.score(self.pack(groups), temperature=sampling.temperature)
        outcomes = self.layout.gather_over_replicas(prompt_outcomes(batch))
        if not outcomes:
            raise DataError(
                "there is no held-out prompt to evaluate on; give data.eval_path or raise evaluate.prompts"
            )
        return {"all": summarise(outcomes)} | {
            split: summarise(part) for split, part in by_split(outcomes).items() if split
        }

    # ------------------------------------------------------------ small parts

    def _requests(
        self, items: Sequence[tuple[int, Prompt]], purpose: str, number: int, group_size: int
    ) -> list[RolloutRequest]:
        return [
            RolloutRequest(
                index=index,
                prompt=prompt,
                seeds=tuple(draw_seed(self.seed, purpose, number, prompt.id, k) for k in range(group_size)),
            )
            for index, prompt in items
        ]

    def _check_mismatch(self, metrics: Metrics) -> None:
        found = metrics["mismatch/mean_abs"]
        if self.mismatch_limit and found > self.mismatch_limit:
            raise NumericsError(
                f"engine and trainer disagree: mean |log_prob_old - log_prob_engine| is {found:.2e} nats, "
                f"above rollout.mismatch_limit={self.mismatch_limit:.2e}; compare rollout.dtype with "
                "model.dtype"
            )


class Clock:
    """Seconds and peak memory per verb of one step."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._peaks: dict[str, float] = {}

    @contextmanager
    def measure(self, verb: str) -> Iterator[None]:
        reset_peak()
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[verb] = time.perf_counter() - started
            self._peaks[verb] = peak_gib()

    def take(self) -> Metrics:
        """``time/<verb>_s`` and ``memory/<verb>_gib`` since the last call, with their sum and maximum."""
        seconds, peaks = self._seconds, self._peaks
        self._seconds, self._peaks = {}, {}
        return (
            {f"time/{verb}_s": value for verb, value in seconds.items()}
            | {f"memory/{verb}_gib": value for verb, value in peaks.items()}
            | {"time/step_s": sum(seconds.values()), "memory/peak_gib": max(peaks.values())}
        )


def _rates(metrics: Metrics) -> Metrics:
    tokens = metrics["tokens/response"]
    return {
        "tokens/generated_per_s": tokens / max(metrics["time/generate_s"], 1e-9),
        "tokens/trained_per_s": (tokens + metrics["tokens/prompt"]) / max(metrics["time/update_s"], 1e-9),
        "tokens/per_s": tokens / max(metrics["time/step_s"], 1e-9),
    }
