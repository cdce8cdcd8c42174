"""Every layout that divides model and cards, what each needs and takes, and the best beside each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from megaent.errors import ConfigError
from megaent.plan.candidates import Candidate, Found, Refused, distinct
from megaent.plan.cluster import Cluster
from megaent.plan.generation import Engines
from megaent.plan.layout import Layout
from megaent.plan.lengths import Lengths
from megaent.plan.machine import GIB, Machine
from megaent.plan.memory import Memory, train_memory
from megaent.plan.question import Question
from megaent.plan.shape import Shape
from megaent.plan.step import (
    Batch,
    Trained,
    engine_memory,
    step_memory,
    step_seconds,
    trained,
    update_work,
)
from megaent.plan.training import train_seconds
from megaent.plan.work import Work

_ENGINE_SIZES = (1, 2, 4, 8)
_ENGINE_SHARES = (0.25, 0.375, 0.5, 0.625, 0.75)


class Search:
    """Of one question. Raises ConfigError for what no layout could mend."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.shape: Shape = question.read_shape()
        self.cluster: Cluster = question.read_cluster()
        self.machine = Machine(self.cluster, question.read_constants(self.cluster))
        self.cards = question.count_cards(self.cluster)
        self._refuse_precision()
        self.batch = self._batch() if question.is_rl else None
        if self.batch is not None:
            self._require_engine()

    def _refuse_precision(self) -> None:
        question = self.question
        if question.precision == "fp8" and not self.cluster.fp8_tflops:
            raise ConfigError(
                f"precision=fp8 needs a card that has it; {self.cluster.name} has not: take bf16"
            )
        if question.is_rl and question.precision != "bf16":
            raise ConfigError(
                f"megaent trains in bf16 on cards; precision={question.precision} needs workload=train"
            )

    def _batch(self) -> Batch:
        question = self.question
        spread = question.length_spread or self.machine.constants.length_spread
        return Batch(
            prompts=question.prompts,
            group=question.group_size,
            prompt_tokens=question.prompt_tokens,
            lengths=Lengths(mean=question.response_tokens, longest=question.max_new_tokens, spread=spread),
            optimizer_steps=question.minibatches,
            reference=_needs_reference(question.method),
            staleness=question.staleness,
        )

    def run(self) -> Found:
        """All that fit, fastest first. Where none does, the nearest is told in the error."""
        outcomes = list(self._outcomes())
        found = [one for one in outcomes if isinstance(one, Candidate)]
        refused = [one for one in outcomes if isinstance(one, Refused)]
        refused.sort(key=lambda one: one.lacks)
        if not found and refused and self._is_settled:
            return Found(candidates=[self._regardless(refused[0])], refused=[], tried=len(outcomes))
        if not found:
            raise ConfigError(self._nothing(refused, len(outcomes)))
        return Found(candidates=distinct(found), refused=refused, tried=len(outcomes))

    def _outcomes(self) -> Iterator[Candidate | Refused | None]:
        for engine_cards in self._splits():
            for layout in self._layouts(self.cards - engine_cards):
                for tokens in self._packs(layout):
                    yield self._outcome(layout, tokens, engine_cards)

    @property
    def _is_settled(self) -> bool:
        """Whether the question leaves one layout of training; its plan is worth more than a refusal."""
        question = self.question
        sizes = (question.tp, question.pp, question.cp, question.micro_batch, question.recompute)
        return not question.is_rl and all(sizes)

    def _regardless(self, refused: Refused) -> Candidate:
        return replace(self._trained(refused.layout, refused.microbatch_tokens), lacks=refused.lacks)

    # ------------------------------------------------------------ what there is to try

    def _splits(self) -> list[int]:
        """Cards for generation alone; 0 shares the trainer's, which only a synchronous step can."""
        question = self.question
        if not question.is_rl:
            return [0]
        if question.engine_gpus:
            if question.engine_gpus >= self.cards:
                raise ConfigError(
                    f"engine_gpus={question.engine_gpus} leaves none of {self.cards} cards to train on"
                )
            return [question.engine_gpus]
        unit = self.cluster.cards_per_node if self.cards > self.cluster.cards_per_node else 1
        shares = {round(self.cards * share / unit) * unit for share in _ENGINE_SHARES}
        split = sorted(cards for cards in shares if 0 < cards < self.cards)
        return split if question.staleness else [0, *split]

    def _layouts(self, cards: int) -> Iterator[Layout]:
        """Tensor ranks stay in a node; what does not divide model or cards is left out."""
        question, shape = self.question, self.shape
        powers = [2**power for power in range(11)]
        tps = [size for size in powers if size <= self.cluster.cards_per_node]
        pps = [size for size in range(1, 65) if shape.layers % size == 0]
        eps = [size for size in powers[:7] if shape.experts and shape.experts % size == 0] or [1]
        for tp in _given(question.tp, tps):
            for pp in _given(question.pp, pps):
                for cp in _given(question.cp, powers[:6]):
                    if cards % (tp * pp * cp):
                        continue
                    for ep in _given(question.ep, eps):
                        yield from self._variants(cards, tp, pp, cp, ep)

    def _variants(self, cards: int, tp: int, pp: int, cp: int, ep: int) -> Iterator[Layout]:
        question = self.question
        recompute = ("none", "full") if question.is_rl else ("none", "selective", "full")
        for vpp in _given(question.vpp, (1, 2, 4, 8) if pp > 1 else (1,)):
            for kind in [question.recompute] if question.recompute else recompute:
                dp = cards // (tp * pp * cp)
                layout = Layout(
                    tp=tp, pp=pp, vpp=vpp, cp=cp, ep=ep, dp=dp,
                    sequence_parallel=tp > 1 and self._sequence_parallel,
                    recompute=kind, sharding=self._sharding(dp),
                )  # fmt: skip
                if self._divides(layout):
                    yield layout

    def _sharding(self, dp: int) -> str:
        """megaent's actor shards the optimizer's state where there are replicas, as tables of training do."""
        question = self.question
        if question.sharding:
            return question.sharding
        if question.is_rl:
            return "optimizer" if dp > 1 else "replicated"
        return "full" if self._stack in ("compiled", "eager") else "optimizer"

    @property
    def _stack(self) -> str:
        """What shards everything is FSDP, whose plain form is eager."""
        question = self.question
        if question.stack:
            return question.stack
        if question.is_rl:
            return "megaent"
        return "eager" if question.sharding == "full" else self.shape.trained_by

    @property
    def _attention(self) -> str:
        """fp16 was trained in before there was flash attention; PyTorch's own is its second version."""
        if self.question.attention:
            return self.question.attention
        if self.question.precision == "fp16":
            return "unfused"
        return "flash2" if self._stack in ("compiled", "eager") else "flash"

    @property
    def _sequence_parallel(self) -> bool:
        return self.question.sequence_parallel != "false" and (
            self.question.sequence_parallel == "true" or self._attention != "unfused"
        )

    def _divides(self, layout: Layout) -> bool:
        question = self.question
        try:
            layout.check(self.shape)
        except ConfigError:
            if self._is_given(layout):
                raise
            return False
        if question.is_rl:
            return layout.dp <= question.prompts
        return question.global_batch % layout.dp == 0

    def _is_given(self, layout: Layout) -> bool:
        """Whether every size was the caller's, so that the reason why it fails is what they need."""
        question = self.question
        return all((question.tp, question.pp, question.cp, question.vpp or layout.vpp == 1))

    def _packs(self, layout: Layout) -> list[int]:
        """Tokens of a microbatch: of whole sequences in training; with room for the longest answer in RL."""
        question = self.question
        if self.batch is None:
            of_replica = question.global_batch // layout.dp
            sizes = _given(question.micro_batch, (1, 2, 4, 8, 16))
            return [count * question.seq_len for count in sizes if of_replica % count == 0]
        longest = self.batch.longest
        if question.microbatch_tokens:
            if question.microbatch_tokens < longest:
                raise ConfigError(
                    f"microbatch_tokens={question.microbatch_tokens} cannot hold a prompt and the longest "
                    f"answer, {longest} tokens; raise it or lower max_new_tokens"
                )
            return [question.microbatch_tokens]
        return sorted({max(longest, size) for size in (longest, 16384, 32768, 65536)})

    # ------------------------------------------------------------ one of them

    def _outcome(self, layout: Layout, tokens: int, engine_cards: int) -> Candidate | Refused | None:
        if self.batch is None:
            return self._train(layout, tokens)
        return self._step(layout, tokens, engine_cards, self.batch)

    def _work(self, layout: Layout, tokens: int) -> Work:
        question = self.question
        return Work(
            tokens=tokens,
            context=question.seq_len,
            microbatches=max(1, question.global_batch * question.seq_len // (layout.dp * tokens)),
            precision=question.precision,
            stack=self._stack,
            head=question.head or ("fused" if question.is_rl else "logits"),
            attention=self._attention,
            states=question.states,
            lora=question.lora,
        )

    def _train(self, layout: Layout, tokens: int) -> Candidate | Refused:
        found = self._trained(layout, tokens)
        lacks = self._lacks(found.memory)
        if lacks > 0:
            return Refused(layout=layout, microbatch_tokens=tokens, memory=found.memory, lacks=lacks)
        return found

    def _trained(self, layout: Layout, tokens: int) -> Candidate:
        work = self._work(layout, tokens)
        memory = train_memory(self.machine.constants, self.shape, layout, work)
        update = train_seconds(self.machine, self.shape, layout, work)
        return Candidate(
            layout=layout,
            work=work,
            memory=memory,
            seconds=update.total,
            update=update,
            microbatch_tokens=tokens,
        )

    def _step(
        self, layout: Layout, tokens: int, engine_cards: int, batch: Batch
    ) -> Candidate | Refused | None:
        """The best engine for this trainer. None where engines and trainer cannot share these cards."""
        work = update_work(batch, layout, tokens, self._work(layout, tokens))
        full = replace(work, tokens=float(tokens))  # a pack may be full
        memory = step_memory(self.machine, self.shape, layout, full, batch)
        if self._lacks(memory) > 0:
            return Refused(layout=layout, microbatch_tokens=tokens, memory=memory, lacks=self._lacks(memory))
        done = trained(self.machine, self.shape, layout, work, batch)
        base = Candidate(
            layout=layout, work=work, memory=memory, seconds=0.0, update=done.update, microbatch_tokens=tokens
        )
        tried = [
            self._with_engine(base, engine_cards, tp, done) for tp in self._engine_tps(layout, engine_cards)
        ]
        return min((one for one in tried if one is not None), key=lambda one: one.rank, default=None)

    def _engine_tps(self, layout: Layout, engine_cards: int) -> list[int]:
        """Servers on the trainer's cards start beside their leader, on the first pipeline stage."""
        room = engine_cards or layout.tp * layout.cp
        sizes = [size for size in _ENGINE_SIZES if room % size == 0 and self.shape.heads % size == 0]
        return [size for size in _given(self.question.engine_tp, sizes) if room % size == 0]

    def _with_engine(self, base: Candidate, engine_cards: int, tp: int, done: Trained) -> Candidate | None:
        assert self.batch is not None, "only a step of reinforcement learning has engines"
        colocated = engine_cards == 0
        room = engine_memory(self.machine, base.memory.states, colocated=colocated)
        engines = Engines(cards=engine_cards or base.layout.cards // base.layout.pp, tp=tp, memory=room)
        try:
            step = step_seconds(self.machine, self.shape, engines, self.batch, done)
        except ConfigError:
            return None
        return replace(base, seconds=step.total, step=step, engines=engines, colocated=colocated)

    def _lacks(self, memory: Memory) -> float:
        return memory.total - self.cluster.memory_gib * GIB

    def _require_engine(self) -> None:
        """Raises ConfigError where the largest engine could not even hold the weights."""
        size = max(_ENGINE_SIZES)
        room = engine_memory(self.machine, 0.0, colocated=False)
        Engines(cards=size, tp=self.question.engine_tp or size, memory=room).cached_tokens(self.shape)

    def _nothing(self, refused: list[Refused], tried: int) -> str:
        if not refused:
            return (
                f"no layout of {self.cards} cards divides {self.shape.name} and the batch and leaves an "
                f"engine room; {tried} were tried. Leave sizes out, or change the number of cards"
            )
        near = refused[0]
        larger = self._larger()
        return (
            f"{self.shape.name} does not fit {self.cards} x {self.cluster.name}: the nearest of "
            f"{len(refused)} layouts, {near.layout} with {near.microbatch_tokens} tokens a microbatch, lacks "
            f"{near.lacks / GIB:.1f} GiB a card ({near.memory.total / GIB:.1f} of {self.cluster.memory_gib})"
            + (
                f"; it fits {larger} cards"
                if larger
                else "; lower a microbatch's tokens or take larger cards"
            )
        )

    def _larger(self) -> int:
        """The smallest multiple of the cards that fits, up to 64 times; 0: none."""
        for factor in range(2, 65):
            free = replace(
                self.question,
                gpus=self.cards * factor,
                nodes=0,
                engine_gpus=0,
                tp=0,
                pp=0,
                vpp=0,
                cp=0,
                ep=0,
                recompute="",
            )
            if any(isinstance(one, Candidate) for one in Search(free)._outcomes()):
                return free.gpus
        return 0


def _given(value: int, otherwise: object) -> list[int]:
    return [value] if value else list(otherwise)  # type: ignore[call-overload]


def _needs_reference(method: str) -> bool:
    """Whether the method reads a reference policy, asked of the method itself."""
    if method == "grpo":
        return False  # without loading what builds methods
    from megaent.methods import build_method

    names = [name.strip() for name in method.strip("[]").split(",")]
    return build_method({name: {} for name in names}).needs_reference
