"""A step of reinforcement learning: generate, score, reference, update and publish, one after another or side
by side."""

from __future__ import annotations

from dataclasses import dataclass, replace

from megaent.plan.generation import Engines, GenerateSeconds, generate_seconds
from megaent.plan.layout import Layout
from megaent.plan.lengths import Lengths
from megaent.plan.machine import GIB, Machine, whole
from megaent.plan.memory import Memory, train_memory
from megaent.plan.shape import Shape
from megaent.plan.training import TrainSeconds, forward_seconds, train_seconds
from megaent.plan.work import Work

BUCKET_BYTES = 256 * 2**20  # rollout.sync.bucket_mib


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one step draws, and how it is learnt from."""

    prompts: int
    group: int
    prompt_tokens: float
    lengths: Lengths
    optimizer_steps: int = 1
    reference: bool = False
    staleness: int = 0

    @property
    def tokens(self) -> float:
        return self.prompts * self.group * (self.prompt_tokens + self.lengths.mean)

    @property
    def longest(self) -> int:
        """Tokens that a microbatch must be able to hold."""
        return whole(self.prompt_tokens) + self.lengths.longest


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Seconds of the training cards in a step."""

    score: float
    reference: float
    update: TrainSeconds

    @property
    def total(self) -> float:
        return self.score + self.reference + self.update.total


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSeconds:
    generate: GenerateSeconds
    trained: Trained
    publication: float
    staleness: int

    @property
    def generation(self) -> float:
        """What a step waits for. With k batches under way at once, each has k steps to be ready in."""
        if self.staleness < 2:
            return self.generate.total
        return max(self.generate.steady, self.generate.slowest / self.staleness)

    @property
    def total(self) -> float:
        if self.staleness == 0:
            return self.generation + self.trained.total + self.publication
        return max(self.generation, self.trained.total) + self.publication

    @property
    def waits_for(self) -> str:
        if self.staleness == 0:
            return "one after another"
        return "generation" if self.generation > self.trained.total else "training"


def update_work(batch: Batch, layout: Layout, microbatch_tokens: int, work: Work) -> Work:
    """Packs of a step: sequences leave on average half a mean one free in a pack."""
    mean = batch.prompt_tokens + batch.lengths.mean
    filled = max(mean, microbatch_tokens - mean / 2)
    of_replica = batch.tokens / layout.dp / batch.optimizer_steps
    count = whole(of_replica / filled)
    return replace(
        work,
        tokens=of_replica / count,
        context=batch.lengths.context(batch.prompt_tokens),
        microbatches=count,
        optimizer_steps=batch.optimizer_steps,
    )


def trained(machine: Machine, shape: Shape, layout: Layout, work: Work, batch: Batch) -> Trained:
    """``work`` as ``update_work`` makes it."""
    passes = work.microbatches * work.optimizer_steps + layout.pp - 1
    score = passes * forward_seconds(machine, shape, layout, work)
    return Trained(
        score=score,
        reference=score if batch.reference else 0.0,
        update=train_seconds(machine, shape, layout, work).times(work.optimizer_steps),
    )


def step_seconds(
    machine: Machine, shape: Shape, engines: Engines, batch: Batch, done: Trained
) -> StepSeconds:
    """Raises ConfigError where an engine has no room."""
    generate = generate_seconds(
        machine,
        shape,
        engines,
        batch.lengths,
        prompts=batch.prompts,
        group=batch.group,
        prompt=batch.prompt_tokens,
        ahead=max(1, batch.staleness),
    )
    publication = publication_seconds(machine, shape, is_far=batch.staleness > 0)
    return StepSeconds(generate=generate, trained=done, publication=publication, staleness=batch.staleness)


def publication_seconds(machine: Machine, shape: Shape, *, is_far: bool) -> float:
    """Whole weights in bf16, gathered tensor by tensor and sent to every engine at once."""
    cluster = machine.cluster
    slower = cluster.network_gbps if is_far else cluster.link_gbps
    return 2 * shape.parameters / (slower * 1e9 * machine.constants.publication_share)


def file_seconds(machine: Machine, shape: Shape) -> float:
    """Whole weights in bf16, gathered on one process and written to a file, which engines then read."""
    return 2 * shape.parameters / (machine.constants.file_gbps * 1e9)


def step_memory(machine: Machine, shape: Shape, layout: Layout, work: Work, batch: Batch) -> Memory:
    """Of a training card while it updates or scores; servers on the same cards give theirs up for that."""
    found = train_memory(machine.constants, shape, layout, work)
    scoring = (
        found.weights if batch.reference else 0.0
    )  # the policy's own, while the reference's are in place
    return replace(found, reference=scoring, publication=2.0 * BUCKET_BYTES)


def engine_memory(machine: Machine, held: float, *, colocated: bool) -> float:
    """Bytes of a card that an engine may take; beside a trainer what its states leave."""
    room = machine.cluster.memory_gib * GIB
    alone = machine.constants.engine_memory * room
    if not colocated:
        return alone
    return min(alone, room - held - (machine.constants.context_gib + machine.constants.workspace_gib) * GIB)
