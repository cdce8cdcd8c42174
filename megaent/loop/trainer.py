"""The loop. One step: collect, pack, score, estimate, update, publish; and one line of accounting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from megaent.actor.actor import Actor, Placement
from megaent.actor.canary import tokens_to_check
from megaent.data.step_boundary import tokens_holding
from megaent.errors import EngineError, NumericsError
from megaent.experience.describe import describe, describe_sampled
from megaent.experience.pack import SECOND_ROLLOUT, assign_minibatches, mark_steps, pack
from megaent.loop.agreement import Agreement
from megaent.loop.clock import Clock, rates, timed
from megaent.loop.collect import Collected, Collector
from megaent.loop.course import Course
from megaent.loop.dealing import deal_groups, entries, imbalance_of_replicas
from megaent.loop.term_shares import shares_of_gradient
from megaent.objective.estimate import estimate
from megaent.objective.method import ReasoningSteps
from megaent.objective.parts import parts
from megaent.objective.seen import Labels
from megaent.randomness import draw_seed
from megaent.sync.publish import publish
from megaent.types import Experience, Group, Metrics, TokenTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one step leaves behind; every rank holds the metrics, each leader its own groups."""

    metrics: Metrics
    groups: list[Group]
    batch: Experience
    terms: TokenTerms
    labels: Mapping[str, Labels]  # of the batch's tokens, where the method's pieces gave some
    entropy_histogram: torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Trainer:
    """Everything a step needs; each of its methods is a collective."""

    actor: Actor
    collector: Collector
    num_minibatches: int
    seed: int
    mismatch_limit: float = 0.0  # nats, of the mean absolute mismatch; 0 only reports
    agreement: Agreement | None = None  # of servers and actor, checked after publications
    canary_every: int = 0  # steps between checks of the ops against the reference backend; 0 never
    drift_every: int = 0  # steps between comparisons of the precision with the full one; 0 never
    staleness: int = 0  # steps that generation runs ahead of training

    @property
    def layout(self) -> Placement:
        return self.actor.layout

    @property
    def course(self) -> Course:
        return self.collector.generation.course

    @property
    def clock(self) -> Clock:
        return self.collector.clock

    def step(self, step: int) -> StepReport:
        """One turn of the loop. Steps count from 1."""
        collected = self.collector.collect(step)
        agreed = self.check_publication()
        collected = replace(collected, groups=self.deal(collected.groups))
        batch, balance = self.pack(step, collected.groups)
        drifted = self.check_precision(step, batch)
        batch = self.score(step, batch)
        terms, labels, estimated = self.estimate(step, batch)
        shares = self.term_shares(step, batch, terms)
        updated = self.update(step, batch, terms)
        published = self.publish(step)
        told = agreed | balance | drifted | estimated | shares | updated | published
        metrics, histogram = self._account(step, collected, batch, told)
        return StepReport(
            metrics=metrics,
            groups=collected.groups,
            batch=batch,
            terms=terms,
            labels=labels,
            entropy_histogram=histogram,
        )

    # ------------------------------------------------------------ the verbs

    def check_publication(self) -> Metrics:
        """Of the weights that came before the step, before anything drawn from them is learnt from."""
        metrics: Metrics = {}
        if self.agreement is not None:
            with self.clock.measure("publish"):
                metrics = self.agreement.require()
        self.collector.source.rest()
        return metrics

    def deal(self, groups: list[Group]) -> list[Group]:
        """What this leader is to learn from of all that were collected; peers have none."""
        if not self.layout.is_leader:
            return []
        with self.clock.measure("pack"):
            return deal_groups(groups, self.layout, self.actor.work, self.num_minibatches)

    @timed
    def pack(self, step: int, groups: list[Group]) -> tuple[Experience, Metrics]:
        """The leader's groups as one packed batch, on every rank of its replica; how equal replicas are."""
        batch = self.layout.share(pack(groups) if self.layout.is_leader else None)
        self._check_versions(step, batch)
        minibatch_S, balance = self._minibatches(batch)
        is_second_S = (batch.index >= SECOND_ROLLOUT)[batch.group]
        batch = replace(batch, is_second=is_second_S, minibatch=minibatch_S)
        steps = self.course.method_at(step).steps
        if steps is not None:
            batch = mark_steps(batch, *self._step_tokens(steps))
        return self.course.with_history(step, batch), {"balance/replicas": balance}

    def check_precision(self, step: int, batch: Experience) -> Metrics:
        """In the steps in which it is due: how far log-probabilities are from those in full precision."""
        if not self.drift_every or (step - 1) % self.drift_every:
            return {}
        with self.clock.measure("score"):
            return self.actor.drift(batch, temperature=self._temperature(step))

    @timed
    def score(self, step: int, batch: Experience) -> Experience:
        """The batch with log-probability and entropy of every token under the present policy."""
        method = self.course.method_at(step)
        return self.actor.score(
            batch,
            temperature=self._temperature(step),
            with_reference=method.needs_reference,
            check=self._canary(step, batch),
            nucleus_p=method.loss.nucleus_p,
        )

    @timed
    def estimate(self, step: int, batch: Experience) -> tuple[TokenTerms, Mapping[str, Labels], Metrics]:
        """The step's method, reduced to one number per token and term."""
        seen = self.course.seen(step, batch, self.num_minibatches)
        terms, metrics = estimate(self.course.method_at(step), seen)
        return terms, seen.notes.labels, metrics

    def term_shares(self, step: int, batch: Experience, terms: TokenTerms) -> Metrics:
        """In the first step of a phase: how much of the gradient each part of the loss is, unlearnt."""
        loss = self.course.method_at(step).loss
        if not loss.terms or not self.course.begins_phase(step):
            return {}
        with self.clock.measure("update"):
            return shares_of_gradient(
                self.actor, batch, terms, parts(loss), temperature=self._temperature(step)
            )

    @timed
    def update(self, step: int, batch: Experience, terms: TokenTerms) -> Metrics:
        """One optimizer step a minibatch."""
        return self.actor.update(
            batch,
            terms,
            self.course.method_at(step).loss,
            temperature=self._temperature(step),
            num_minibatches=self.num_minibatches,
        )

    def publish(self, version: int) -> Metrics:
        """The present weights to the engine, as ``version``; what is being drawn may have to end first."""
        with self.clock.measure("generate"):
            self.collector.source.settle()
        with self.clock.measure("publish"):
            metrics = publish(self.actor.named_weights(), self.collector.generation.engine, version)
            if self.agreement is not None:
                self.agreement.ask(version)
            return metrics

    # ------------------------------------------------------------ accounting

    def _account(
        self, step: int, collected: Collected, batch: Experience, metrics: Metrics
    ) -> tuple[Metrics, torch.Tensor]:
        """What is told of the step, with its entropy histogram, and what the method's controllers learn."""
        described, histogram = describe(
            batch, self.layout, vocab_size=self.actor.vocab_size, version=step - 1
        )
        metrics = metrics | described | self._of_sampled(step, collected, described)
        metrics["version"] = float(step)
        self.course.state.after_step(self.course.method_at(step), metrics)
        self._check_mismatch(metrics)
        metrics |= self.clock.take() | {"time/generate_hidden_s": self.collector.source.hidden_s}
        return metrics | rates(metrics), histogram

    def _of_sampled(self, step: int, collected: Collected, kept: Metrics) -> Metrics:
        """Where only some groups are learnt from: the usual names for all, ``kept/…`` for those."""
        if self.course.method_at(step).sampling is None:
            return {}
        sampled = describe_sampled(collected.sampled if self.layout.is_leader else None, self.layout)
        return sampled | {f"kept/{name.replace('/', '_')}": kept[name] for name in sampled}

    def _minibatches(self, batch: Experience) -> tuple[torch.Tensor, float]:
        """[S] the optimizer step of each response, and the imbalance of the replicas over these steps."""
        everyone = entries(batch, self.layout, self.actor.work)
        place_P = batch.index % SECOND_ROLLOUT  # both rollouts of a prompt are learnt from together
        minibatch_P = assign_minibatches(place_P, [entry.place for entry in everyone], self.num_minibatches)
        balance = imbalance_of_replicas(everyone, self.num_minibatches, self.layout.dp)
        return minibatch_P[batch.group], balance

    # ------------------------------------------------------------ checks

    def _temperature(self, step: int) -> float:
        return self.collector.generation.sampling_at(step).temperature

    @lru_cache(maxsize=1)  # noqa: B019 - a trainer lives as long as its process
    def _step_tokens(self, steps: ReasoningSteps) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The ids that close a step, and those that end the thinking part where that matters."""
        task, vocab_size, end = self.collector.task, self.actor.vocab_size, steps.thinking_end
        closing = tokens_holding(steps.boundary or task.step_boundary, task, vocab_size, "boundary")
        return closing, tokens_holding(end, task, vocab_size, "thinking_end") if end else None

    def _canary(self, step: int, batch: Experience) -> torch.Tensor | None:
        """Some tokens of this replica's batch, drawn anew, in the steps in which the ops are checked."""
        if not self.canary_every or (step - 1) % self.canary_every or not batch.num_tokens:
            return None
        return tokens_to_check(batch.num_tokens, draw_seed(self.seed, "canary", step, self.layout.dp_rank))

    def _check_versions(self, step: int, batch: Experience) -> None:
        assert batch.version is not None, "a packed batch has versions"
        newest, oldest = step - 1, step - 1 - self.staleness
        wrong = batch.version[(batch.version > newest) | (batch.version < oldest)]
        if wrong.numel():
            raise EngineError(
                f"step {step} was given responses of version {int(wrong[0])} of the weights; with "
                f"rollout.staleness={self.staleness} they must be of version {oldest} to {newest}"
            )

    def _check_mismatch(self, metrics: Metrics) -> None:
        found = metrics["mismatch/mean_abs"]
        if self.mismatch_limit and found > self.mismatch_limit:
            raise NumericsError(
                f"engine and trainer disagree: mean |log_prob_old - log_prob_engine| is {found:.2e} nats, "
                f"above rollout.mismatch_limit={self.mismatch_limit:.2e}; compare rollout.dtype with "
                "model.dtype"
            )
