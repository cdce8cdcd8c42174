"""The policy on Megatron-Core: scores tokens with the old policy, and learns from them.

Every rank of a replica holds the same experience and ends with the same statistics; the layout
decides only who computes what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from megaent.actor.canary import require_agreement
from megaent.actor.convert import load_weights, named_weights, piece_owners
from megaent.actor.drift import Drift
from megaent.actor.finite import check_finite, check_statistics
from megaent.actor.forward_step import MetricSums, scoring_step, training_step
from megaent.actor.kept_graphs import KeptGraphs, graph_bytes_per_token
from megaent.actor.microbatch import (
    Microbatch,
    PackRules,
    WorkOfPacks,
    build_microbatch,
    minibatch_of_responses,
    pack_length,
    split_microbatches,
)
from megaent.actor.mixture import mixture
from megaent.actor.model import build_model, transformer_config
from megaent.actor.optimizer import (
    AdamOptions,
    build_optimizer,
    reset_state,
    set_learning_rate,
    wrap_data_parallel,
)
from megaent.actor.parallel import ContextParallel, Layout
from megaent.actor.precision import Precision, length_multiple
from megaent.actor.recompute import RecomputeOptions
from megaent.actor.reference_policy import ReferencePolicy
from megaent.actor.router_options import RouterOptions
from megaent.actor.state import load_state, save_state
from megaent.actor.work import work_of
from megaent.experience.balance import imbalance
from megaent.model_folder.architecture import Architecture, read_architecture
from megaent.model_folder.contents import check_weights
from megaent.model_folder.hf_folder import open_weights, weights_digest
from megaent.objective.method import Loss
from megaent.ops.reference import statistics_dtype
from megaent.types import Experience, Metrics, TokenTerms

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorOptions:
    """How the model is built and run; what is learnt is the method's."""

    dtype: str = "float32"
    implementation: str = "local"  # local | transformer_engine
    recompute: RecomputeOptions = field(default_factory=RecomputeOptions)
    router: RouterOptions = field(default_factory=RouterOptions)
    microbatch_tokens: int = 8192
    share_prompts: bool = False
    kept_graphs_gib: float = 0.0
    precision: Precision = field(default_factory=Precision)
    distributed_optimizer: bool = False


class MegatronActor:
    """``score``, ``update`` and ``named_weights`` are collectives over the whole world."""

    def __init__(self, folder: Path, layout: Layout, options: ActorOptions, adam: AdamOptions) -> None:
        self.layout, self.options, self.adam = layout, options, adam
        self.architecture: Architecture = read_architecture(folder)
        layout.sizes.check_model(self.architecture)
        options.recompute.check(self.architecture, layout.sizes, options.implementation)
        options.router.check(
            has_experts=self.architecture.experts is not None,
            sizes=layout.sizes,
            recompute=options.recompute,
        )
        self.config = transformer_config(
            self.architecture,
            layout.sizes,
            dtype=DTYPES[options.dtype],
            recompute=options.recompute,
            implementation=options.implementation,
            precision=options.precision,
        )
        self._rules = PackRules.of(
            options.microbatch_tokens,
            cp=layout.sizes.cp,
            tp=layout.sizes.tp if layout.sizes.sequence_parallel else 1,
            shares_prompts=options.share_prompts,
            multiple=length_multiple(options.precision),
        )
        self.work = work_of(self.architecture, shares_prompts=options.share_prompts)
        self._kept = KeptGraphs(self._tokens_kept())
        stages = [None] if layout.sizes.vpp is None else list(range(layout.sizes.vpp))
        self.models = [build_model(self.architecture, self.config, vp_stage=stage) for stage in stages]
        self._drift = Drift(self.models, self.config, options.precision)
        self._mixture = mixture(self.models, self.architecture, options.router, layout)
        for model in self.models:
            model.to(layout.device)
        self.load_folder(folder)
        self.chunks = wrap_data_parallel(
            self.models, self.config, distributed_optimizer=options.distributed_optimizer
        )
        self.optimizer = build_optimizer(
            self.chunks, self.config, adam, distributed_optimizer=options.distributed_optimizer
        )
        self.optimizer_steps = 0
        self._owners = piece_owners(self.models, self.architecture, layout)
        self._folder = folder
        self._reference = ReferencePolicy(self.models)

    @property
    def vocab_size(self) -> int:
        return self.architecture.vocab_size

    # ------------------------------------------------------------ score

    def score(
        self,
        batch: Experience,
        *,
        temperature: float,
        with_reference: bool = False,
        check: Tensor | None = None,
        nucleus_p: float | None = None,
    ) -> Experience:
        """``batch`` with log_prob_old and entropy of the present policy, and what else is asked for.

        Nats, at ``temperature``, fp32 (fp64 for a float64 model), on every rank of the replica. ``check`` [K]
        are tokens whose statistics are computed a second time (megaent.actor.canary).
        Raises NumericsError when a statistic is not finite or a checked one is wrong.
        """
        first, *others = self._packs_of_minibatches(batch)
        packs = [pack for packs in (first, *others) for pack in packs]
        if with_reference:
            with self._reference.in_place():
                batch = replace(batch, log_prob_ref=self._statistics(batch, packs, temperature)[0])
        # Last, and under weights that stay: its graphs may serve the first optimizer step.
        self._kept.expect(batch, temperature, first)
        with self._mixture.counted():
            log_prob, entropy, *nucleus = self._statistics(batch, packs, temperature, check, nucleus_p)
        found = {"log_prob_old": log_prob, "entropy": entropy}
        return replace(batch, nucleus_entropy=nucleus[0] if nucleus else None, **found)

    def _statistics(
        self,
        batch: Experience,
        packs: list[list[int]],
        temperature: float,
        check: Tensor | None = None,
        nucleus_p: float | None = None,
    ) -> tuple[Tensor, ...]:
        """[T] each: log_prob, entropy and, where it is asked for, the entropy over the nucleus."""
        dtype = statistics_dtype(self.config.params_dtype)
        num_rows = 3 if nucleus_p is None else 4
        statistics = torch.zeros(num_rows, batch.num_tokens, dtype=dtype, device=self.layout.device)
        if self.layout.sizes.ep > 1:  # every replica takes part in every pass
            packs = packs + [[]] * (self._agree(len(packs)) - len(packs))
        if packs:
            check = None if check is None else check.to(self.layout.device)
            forward_step = scoring_step(statistics, temperature, self._kept, check, nucleus_p)
            self._run(batch, packs, forward_step, is_training=False)
        if self.layout.is_last_stage and self.layout.sizes.cp > 1:
            dist.all_reduce(statistics, group=self.layout.cp_group)
        self.layout.from_last_stage(statistics)
        log_prob, entropy, disagrees, *nucleus = statistics.cpu()
        check_statistics(log_prob, entropy, *nucleus)
        require_agreement(disagrees)
        return log_prob, entropy, *nucleus

    def drift(self, batch: Experience, *, temperature: float) -> Metrics:
        """Differences of log-probabilities between the precision in use and the full one, on one pack.

        Nats, over all replicas. Raises NumericsError when their mean exceeds ``precision.drift_limit``.
        """
        packs = self._packs(batch, list(range(batch.num_responses)))[:1]
        rounded = self._statistics(batch, packs, temperature)[0]
        with self._drift.without():
            full = self._statistics(batch, packs, temperature)[0]
        measured_T = torch.isin(batch.owner, torch.tensor(packs[0] if packs else []))
        return self._drift.metrics((rounded - full)[measured_T], self.layout)

    # ------------------------------------------------------------ update

    def update(
        self,
        batch: Experience,
        terms: TokenTerms,
        loss: Loss,
        *,
        temperature: float,
        num_minibatches: int,
    ) -> Metrics:
        """One optimizer step a minibatch; returns the metrics of the step on every rank.

        A minibatch without a response on any replica is skipped. Raises NumericsError when the loss
        or the gradient norm is not finite; the weights are then not to be saved.
        """
        self._kept.keep_only(batch, temperature)
        sums = MetricSums(self.layout.device)
        forward_step = self._training_step(batch, terms, loss, sums, temperature)
        norms, lr, rounds = [], 0.0, []
        cost = WorkOfPacks(batch, self.work)
        minibatch_S = minibatch_of_responses(batch, terms)
        self._mixture.begin_update(terms.minibatch, num_minibatches)
        for number in range(num_minibatches):
            packs = self._packs_to_learn(batch, minibatch_S, number)
            if not packs:
                continue
            rounds.append([cost(pack) for pack in packs])
            lr = set_learning_rate(self.optimizer, self.adam, self.optimizer_steps)
            self._mixture.begin_minibatch(number)
            norms.append(self._optimizer_step(batch, packs, forward_step))
            self.optimizer_steps += 1
        metrics = self._reduce(sums)
        check_finite(metrics, norms)
        return metrics | {
            "grad/norm": max(norms, default=0.0),
            "lr": lr,
            "optimizer/steps": float(len(norms)),
            "balance/microbatches": float(self.layout.max(torch.tensor(imbalance(rounds)))),
            **self._mixture.metrics(),
        }

    def gradient_norm(self, batch: Experience, terms: TokenTerms, loss: Loss, *, temperature: float) -> float:
        """L2 norm of what ``loss`` alone would teach in the first minibatch, unclipped; nothing is learnt."""
        self._kept.forget()
        forward_step = self._training_step(batch, terms, loss, MetricSums(self.layout.device), temperature)
        if not (packs := self._packs_to_learn(batch, minibatch_of_responses(batch, terms), 0)):
            return 0.0
        with self._mixture.without_losses():
            self._backward(batch, packs, forward_step)
        self.optimizer.prepare_grads()
        return float(self.optimizer.get_grad_norm())

    def _training_step(
        self, batch: Experience, terms: TokenTerms, loss: Loss, sums: MetricSums, temperature: float
    ) -> Callable:
        return training_step(
            batch,
            terms,
            loss,
            sums,
            kept=self._kept,
            temperature=temperature,
            context=ContextParallel(self.layout),
            device=self.layout.device,
        )

    def _packs_to_learn(self, batch: Experience, minibatch_S: list[int], number: int) -> list[list[int]]:
        """Of a minibatch; as many on every replica, empty ones among them, and none where no one has any."""
        packs = self._packs(batch, [response for response, of in enumerate(minibatch_S) if of == number])
        return packs + [[]] * (self._agree(len(packs)) - len(packs))

    def _optimizer_step(self, batch: Experience, packs: list[list[int]], forward_step: Callable) -> float:
        self._backward(batch, packs, forward_step)
        outcome: Any = self.optimizer.step()  # (success, gradient norm, number of zeros)
        return float(outcome[1])

    def _backward(self, batch: Experience, packs: list[list[int]], forward_step: Callable) -> None:
        """The gradient of the packs and nothing else, summed over replicas."""
        for chunk in self.chunks:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        self._run(batch, packs, forward_step, is_training=True)
        self._kept.forget()

    def _agree(self, num_packs: int) -> int:
        """Every replica runs as many microbatches as the one with most work."""
        return self._whole_rounds(int(self.layout.max(torch.tensor(num_packs))))

    def _whole_rounds(self, count: int) -> int:
        """Interleaved schedules run microbatches in rounds of the pipeline's length."""
        return -(-count // self.layout.sizes.pp) * self.layout.sizes.pp if self.layout.sizes.vpp else count

    # ------------------------------------------------------------ shared by both

    def _packs(self, batch: Experience, responses: list[int]) -> list[list[int]]:
        return split_microbatches(batch, responses, self._rules, self.work)

    def _packs_of_minibatches(self, batch: Experience) -> list[list[list[int]]]:
        """Packs by the optimizer step that is to learn from them; of one where the batch does not say."""
        if batch.minibatch is None:
            return [self._packs(batch, list(range(batch.num_responses)))]
        minibatch_S = batch.minibatch.tolist()
        members: dict[int, list[int]] = {number: [] for number in range(max(minibatch_S, default=0) + 1)}
        for response, number in enumerate(minibatch_S):
            members[number].append(response)
        return [self._packs(batch, responses) for responses in members.values()]

    def _tokens_kept(self) -> int:
        """Whose graphs fit into ``kept_graphs_gib``; none in a pipeline, which passes its packs on, and none
        of experts, where replicas may exchange tokens and have to make the same passes.
        """
        sizes, itemsize = self.layout.sizes, self.config.params_dtype.itemsize
        is_kept = sizes.pp == 1 and self.architecture.experts is None
        per_token = graph_bytes_per_token(self.architecture, sizes, itemsize)
        return int(self.options.kept_graphs_gib * 2**30 // per_token) if is_kept else 0

    def _run(
        self, batch: Experience, packs: list[list[int]], forward_step: object, *, is_training: bool
    ) -> None:
        packs = packs + [[]] * (self._whole_rounds(len(packs)) - len(packs))
        layout, rules = self.layout, self._rules
        at_least = self._common_length(batch, packs) if layout.sizes.vpp else 0

        def microbatches() -> Iterator[Microbatch]:
            for pack in packs:
                cp_rank = layout.cp_group.rank()
                built = build_microbatch(batch, pack, rules, cp_rank=cp_rank, at_least=at_least)
                yield built.to(layout.device)

        iterators = [microbatches() for _ in self.chunks]
        is_single = len(self.chunks) == 1
        get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iterators[0] if is_single else iterators,
            model=self.chunks[0] if is_single else self.chunks,
            num_microbatches=len(packs),
            seq_length=at_least or 1,  # else the stages tell each other the length of every pack
            micro_batch_size=1,
            forward_only=not is_training,
        )

    def _common_length(self, batch: Experience, packs: list[list[int]]) -> int:
        """Of the longest pack. Interleaved schedules get packs of one length: with two stages both
        neighbours are one rank, and there Megatron's exchange of shapes and of tensors deadlocks."""
        return max(pack_length(batch, pack, self._rules) for pack in packs)

    def _reduce(self, sums: MetricSums) -> Metrics:
        """Token means over every microbatch, context rank and replica, on every rank."""
        layout = self.layout
        boxed: list[dict[str, float] | None] = [None]
        if layout.is_last_stage and sums.names():
            total = sums.stacked()
            dist.all_reduce(total, group=layout.dp_cp_group)
            values = dict(zip(sums.names(), total.tolist(), strict=True))
            tokens = max(values.pop("tokens"), 1.0)
            loss = values.pop("loss")
            boxed = [{name: value / tokens for name, value in values.items()} | {"loss": loss}]
        if layout.sizes.pp > 1:
            last = dist.get_global_rank(layout.pp_group, layout.sizes.pp - 1)
            dist.broadcast_object_list(boxed, src=last, group=layout.pp_group)
        return dict(boxed[0] or {})

    # ------------------------------------------------------------ kept

    @property
    def identity(self) -> dict[str, object]:
        return self.architecture.identity

    def save(self, folder: Path) -> None:
        save_state(self, folder)

    def load(self, folder: Path) -> None:
        self._kept.forget()
        load_state(self, folder)

    # ------------------------------------------------------------ weights

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight under its Hugging Face name, whole, one at a time, on every rank."""
        return named_weights(self.models, self.architecture, self.layout, self._owners)

    def load_folder(self, folder: Path) -> None:
        """Replace the weights by those of a Hugging Face folder; the optimizer stays as it is."""
        check_weights(folder, self.architecture)
        self._kept.forget()
        with open_weights(folder) as read:
            load_weights(self.models, self.architecture, self.layout, read)

    @property
    def reference_digest(self) -> str | None:
        return self._reference.digest

    def keep_reference(self, folder: Path | None = None) -> None:
        """Take the present weights as the reference policy's, copied to the CPU. A collective.

        ``folder`` holds the same weights, by default the one that the actor started from;
        ``reference_digest`` then identifies the reference by its files.
        """
        digest = weights_digest(folder or self._folder) if self.layout.rank == 0 else None
        self._reference.keep(self.layout.from_rank_0(digest))

    def reset_optimizer(self) -> None:
        """Forget the moments and start the learning rate's warm-up anew; the weights stay."""
        reset_state(self.optimizer)
        self.optimizer_steps = 0
