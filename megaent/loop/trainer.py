"""The loop. One step: collect (generate, grade, remember), pack, score, estimate, update, publish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import torch

from megaent.actor.actor import Actor, Placement
from megaent.actor.canary import tokens_to_check
from megaent.data.prompts import PromptStream
from megaent.data.step_boundary import tokens_holding
from megaent.data.task import Task, decode_groups
from megaent.errors import DataError, EngineError, NumericsError
from megaent.evaluation.evaluate import EvaluationSummary, by_split, prompt_outcomes, summarise
from megaent.experience.describe import describe
from megaent.experience.filter import first_kept
from megaent.experience.pack import SECOND_ROLLOUT, assign_minibatches, mark_steps, pack
from megaent.loop.agreement import Agreement
from megaent.loop.ahead import Ahead
from megaent.loop.clock import Clock, rates, timed
from megaent.loop.generation import Generation
from megaent.loop.method_state import MethodState, outcome
from megaent.objective.estimate import estimate
from megaent.objective.method import Method, Phase, ReasoningSteps, Schedule
from megaent.objective.sampling import informative
from megaent.objective.seen import Seen
from megaent.randomness import draw_seed
from megaent.reward.reward import Reward
from megaent.rollout.engine import RolloutEngine
from megaent.sync.publish import publish
from megaent.types import Experience, Group, Metrics, Prompt, SamplingParams, TokenTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one step leaves behind; every rank holds the metrics, each leader its own groups."""

    metrics: Metrics
    groups: list[Group]
    batch: Experience
    entropy_histogram: torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Trainer:
    """Everything a step needs. ``engine`` and ``reward`` exist on the leader of each replica only."""

    actor: Actor
    engine: RolloutEngine | None
    reward: Reward | None
    task: Task
    stream: PromptStream
    schedule: Schedule
    state: MethodState
    num_steps: int  # of the whole run: phases and annealed coefficients depend on it
    sampling: SamplingParams
    group_size: int
    num_minibatches: int
    seed: int
    mismatch_limit: float = 0.0  # nats, of the mean absolute mismatch; 0 only reports
    agreement: Agreement | None = None  # of servers and actor, checked after publications
    canary_every: int = 0  # steps between checks of the ops against the reference backend; 0 never
    staleness: int = 0  # steps that generation runs ahead of training
    timeout_s: float = 1800.0  # of a wait for responses
    clock: Clock = field(default_factory=Clock)

    @property
    def layout(self) -> Placement:
        return self.actor.layout

    def step(self, step: int) -> StepReport:
        """One turn of the loop; a collective. Steps count from 1."""
        method = self.phase_at(step).method
        groups = self.collect(step)
        agreed = self.check_publication()
        if self.engine is not None and self.ahead is None:
            self.engine.rest()
        batch = self.pack(step, groups)
        batch = self.score(step, batch)
        terms, metrics = self.estimate(step, batch)
        metrics |= agreed | self.update(step, batch, terms)
        self.finish_generating()
        metrics |= self.publish(step)
        described, histogram = describe(
            batch, self.layout, vocab_size=self.actor.vocab_size, version=step - 1
        )
        metrics |= described | {"version": float(step)}
        self.state.after_step(method, metrics)
        self._check_mismatch(metrics)
        metrics |= self.clock.take()
        metrics["time/generate_hidden_s"] = 0.0 if self.ahead is None else self.ahead.hidden_s
        metrics |= rates(metrics)
        return StepReport(metrics=metrics, groups=groups, batch=batch, entropy_histogram=histogram)

    # ------------------------------------------------------------ the verbs

    def collect(self, step: int) -> list[Group]:
        """This leader's graded groups: of the step's prompts, or of as many that teach something."""
        method = self.phase_at(step).method
        if method.sampling is None:
            groups = self.grade(self.generate(step))
            self.remember(step, groups)
        else:
            groups = self._collect_informative(step, method, method.sampling.max_batches)
        if method.second_rollout is not None:
            groups = groups + self.grade(self.generation.second(step, groups, method))
        return groups

    def _collect_informative(self, step: int, method: Method, max_batches: int) -> list[Group]:
        """Groups that teach something, first come first kept, until there are enough anywhere."""
        kept: list[Group] = []
        for attempt in range(max_batches):
            groups = self.grade(self.generate(step, attempt))
            self.remember(step, groups)
            batch = self._with_history(step, pack(groups))
            minibatch_S = torch.zeros(batch.num_responses, dtype=torch.int64)
            is_kept = informative(method, self._seen(step, batch, minibatch_S, num_minibatches=1))
            kept += [group for group, keep in zip(groups, is_kept, strict=True) if keep]
            mine = self.layout.share([group.index for group in kept] if self.layout.is_leader else None)
            everywhere = self.layout.gather_over_replicas(mine)
            if len(everywhere) >= self.stream.per_step:
                break
        stage = str(self.phase_at(step).stage)
        self.state.batches_taken[stage] = self.state.batches_taken.get(stage, 0) + attempt + 1
        return first_kept(kept, everywhere, self.stream.per_step)

    @timed
    def generate(self, step: int, attempt: int = 0) -> list[Group]:
        """This leader's share of one batch of prompts, continued; peers have none."""
        if self.ahead is not None:
            return self.ahead.take(step)
        return self.generation.first(step, attempt)

    @timed
    def grade(self, groups: list[Group]) -> list[Group]:
        if self.reward is None:
            return []
        return self.reward.grade(decode_groups(groups, self.task.decode))

    def remember(self, step: int, groups: list[Group]) -> None:
        """What every graded group tells of its prompt, known to every rank; once a step and prompt."""
        if self.state.history is not None:
            mine = self.layout.share([outcome(group) for group in groups] if self.layout.is_leader else None)
            self.state.commit(step, self.layout.gather_over_replicas(mine))

    @timed
    def pack(self, step: int, groups: list[Group]) -> Experience:
        """The leader's groups as one packed batch, on every rank of its replica."""
        batch = self.layout.share(pack(groups) if self.layout.is_leader else None)
        self._check_versions(step, batch)
        batch = replace(batch, is_second=(batch.index >= SECOND_ROLLOUT)[batch.group])
        steps = self.phase_at(step).method.steps
        if steps is not None:
            batch = mark_steps(batch, *self._step_tokens(steps))
        return self._with_history(step, batch)

    def _with_history(self, step: int, batch: Experience) -> Experience:
        if self.state.history is None:
            return batch
        columns = self.state.history.columns(step, [prompt.id for prompt in batch.prompts])
        return replace(batch, history=columns)

    @timed
    def score(self, step: int, batch: Experience) -> Experience:
        return self.actor.score(
            batch,
            temperature=self.generation.sampling_at(step).temperature,
            with_reference=self.phase_at(step).method.needs_reference,
            check=self._canary(step, batch),
        )

    @timed
    def estimate(self, step: int, batch: Experience) -> tuple[TokenTerms, Metrics]:
        method = self.phase_at(step).method
        place_P = batch.index % SECOND_ROLLOUT  # both rollouts of a prompt are learnt from together
        places = self.layout.gather_over_replicas(place_P.tolist())
        minibatch_P = assign_minibatches(place_P, places, self.num_minibatches)
        return estimate(method, self._seen(step, batch, minibatch_P[batch.group], self.num_minibatches))

    def _seen(self, step: int, batch: Experience, minibatch_S: torch.Tensor, num_minibatches: int) -> Seen:
        return Seen(
            batch=batch,
            population=self.layout,
            minibatch_S=minibatch_S,
            num_minibatches=num_minibatches,
            progress=(step - 1) / max(self.num_steps, 1),
            coefs=self.state.coefs(self.phase_at(step).method),
        )

    @timed
    def update(self, step: int, batch: Experience, terms: TokenTerms) -> Metrics:
        return self.actor.update(
            batch,
            terms,
            self.phase_at(step).method.loss,
            temperature=self.generation.sampling_at(step).temperature,
            num_minibatches=self.num_minibatches,
        )

    def check_publication(self) -> Metrics:
        """Of the weights that came before the step, and before anything drawn from them is learnt from."""
        if self.agreement is None:
            return {}
        with self.clock.measure("publish"):
            return self.agreement.require()

    def finish_generating(self) -> None:
        """An engine that cannot take new weights in the middle of a response first ends those it has."""
        is_served = self.engine is not None and self.engine.takes_weights_while_generating
        if self.ahead is not None and not is_served:
            with self.clock.measure("generate"):
                self.ahead.settle()

    @timed
    def publish(self, version: int) -> Metrics:
        metrics = publish(self.actor.named_weights(), self.engine, version)
        if self.agreement is not None:
            self.agreement.ask(version)
        return metrics

    # ------------------------------------------------------------ evaluation

    def evaluate(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: SamplingParams, seed: int
    ) -> dict[str, EvaluationSummary]:
        """Sampled with fixed seeds; "all" and one entry per split. A collective."""
        groups = self.respond(prompts, ("evaluate", seed), group_size=group_size, sampling=sampling)
        batch = self.layout.share(pack(groups) if self.layout.is_leader else None)
        batch = self.actor.score(batch, temperature=sampling.temperature)
        outcomes = self.layout.gather_over_replicas(prompt_outcomes(batch))
        if not outcomes:
            raise DataError(
                "there is no held-out prompt to evaluate on; give data.eval_path or raise evaluate.prompts"
            )
        return {"all": summarise(outcomes)} | {
            split: summarise(part) for split, part in by_split(outcomes).items() if split
        }

    def respond(
        self,
        prompts: Sequence[Prompt],
        purpose: tuple[str | int, ...],
        *,
        group_size: int,
        sampling: SamplingParams,
    ) -> list[Group]:
        """Graded responses to this leader's share of ``prompts``; peers have none."""
        return self.grade(self.generation.respond(prompts, purpose, group_size=group_size, sampling=sampling))

    # ------------------------------------------------------------ small parts

    @cached_property
    def generation(self) -> Generation:
        return Generation(
            engine=self.engine,
            layout=self.layout,
            stream=self.stream,
            schedule=self.schedule,
            state=self.state,
            num_steps=self.num_steps,
            sampling=self.sampling,
            group_size=self.group_size,
            seed=self.seed,
        )

    @cached_property
    def ahead(self) -> Ahead | None:
        """On leaders of a run that generates ahead of its training."""
        if self.engine is None or not self.staleness:
            return None
        return Ahead(
            self.generation.first, depth=self.staleness, last_step=self.num_steps, timeout_s=self.timeout_s
        )

    def phase_at(self, step: int) -> Phase:
        return self.generation.phase_at(step)

    @lru_cache(maxsize=1)  # noqa: B019 - a trainer lives as long as its process
    def _step_tokens(self, steps: ReasoningSteps) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The ids that close a step, and those that end the thinking part where that matters."""
        vocab_size, end = self.actor.vocab_size, steps.thinking_end
        closing = tokens_holding(steps.boundary or self.task.step_boundary, self.task, vocab_size, "boundary")
        return closing, tokens_holding(end, self.task, vocab_size, "thinking_end") if end else None

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
