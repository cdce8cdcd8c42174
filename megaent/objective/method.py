"""What a method is: a value made of pieces, in phases.

A method works in two stages. *Estimate* sees whole groups of one rollout batch, has no gradient, and
reduces everything to one number per token and term (``TokenTerms``). *Update* sees the tokens of one
microbatch inside the forward pass and only reads those numbers (``Loss``). So parallel code never knows
a method, and a method never sees a process group: global statistics come from a ``Population``.

Everything here is frozen and prints as the expression that rebuilds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

from megaent.objective.seen import Seen, Tokens
from megaent.types import Metrics, PolicyView

TokenMetrics = dict[str, Tensor]
"""Name -> [N], averaged over the trained tokens of the step."""


class Piece(Protocol):
    def words(self) -> str:
        """One plain sentence fragment with every coefficient: what this adds to training."""
        ...


# ---------------------------------------------------------------- pieces of estimate


@runtime_checkable
class RewardTerm(Piece, Protocol):
    """Reshapes the rewards of whole groups: [S] -> [S]."""

    replaces: ClassVar[bool]  # True: ignores the reward handed in, so only one can be in a method
    needs_entropy: ClassVar[bool]  # True: reads a scored batch

    def __call__(self, reward_S: Tensor, seen: Seen) -> Tensor: ...


@runtime_checkable
class Advantage(Piece, Protocol):
    """Rewards of whole groups to one advantage per response: [S] -> [S]."""

    group_relative: ClassVar[bool]  # equal rewards within a group of two or more give exactly 0

    def __call__(self, reward_S: Tensor, seen: Seen) -> Tensor: ...


@runtime_checkable
class Shaping(Piece, Protocol):
    """Reshapes advantages token by token: [T] -> [T]."""

    def __call__(self, advantage_T: Tensor, seen: Seen) -> Tensor: ...


@runtime_checkable
class TokenRule(Piece, Protocol):
    """A weight or a coefficient per token: [N].

    ``scope`` "mini" takes it once, from the old policy over the whole minibatch on all replicas;
    "micro" takes it inside the forward pass, from the current policy over one microbatch, as some
    published code does: the result then depends on the size of the microbatch.
    """

    @property
    def scope(self) -> str: ...

    def __call__(self, tokens: Tokens, seen: Seen | None) -> Tensor: ...


@runtime_checkable
class Aggregation(Piece, Protocol):
    """A weight per token, so that the loss of a minibatch is the plain sum of weight times token loss."""

    def __call__(self, seen: Seen) -> Tensor: ...


# ---------------------------------------------------------------- pieces of the loss


@runtime_checkable
class Core(Piece, Protocol):
    """The policy gradient term of a token."""

    def bounds(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """[N] and [N]: how far below and above 1 the ratio may count, taken in ``estimate``."""
        ...

    def __call__(self, view: PolicyView) -> tuple[Tensor, TokenMetrics]: ...


@runtime_checkable
class Quantity(Piece, Protocol):
    """What a term is a coefficient times: [N] with gradient."""

    @property
    def needs_reference(self) -> bool: ...

    @property
    def nucleus_p(self) -> float | None:
        """The nucleus over which it reads the entropy; None for one that does not."""
        ...

    def __call__(self, view: PolicyView) -> Tensor: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """``coef * quantity`` added to the loss of a token; ``coef`` is a rule, ``name`` its place in metrics."""

    name: str
    quantity: Quantity
    coef: TokenRule

    def words(self) -> str:
        return f"{self.name}: ({self.coef.words()}) x {self.quantity.words()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """The one fixed loss: ``weight * core + sum of coef * quantity``, per token.

    All the actor needs to know of a method. Rules of scope "mini" were evaluated before and are read
    from the view; rules of scope "micro" are evaluated here, on the current policy.
    """

    core: Core
    weights: tuple[TokenRule, ...] = ()
    terms: tuple[Term, ...] = ()

    @property
    def nucleus_p(self) -> float | None:
        """Of the nucleus whose entropy ``score`` and the forward pass must give; None where no term asks."""
        return next((p for term in self.terms if (p := term.quantity.nucleus_p) is not None), None)

    def __call__(self, view: PolicyView) -> tuple[Tensor, TokenMetrics]:
        core_N, metrics = self.core(view)
        weight_N = view.terms.policy_weight
        for rule in self.weights:
            if rule.scope == "micro":
                weight_N = weight_N * rule(microbatch_tokens(view), None)
        loss_N = weight_N * core_N
        for term in self.terms:
            coef_N = (
                term.coef(microbatch_tokens(view), None)
                if term.coef.scope == "micro"
                else view.terms.coefs[term.name]
            )
            quantity_N = term.quantity(view)
            loss_N = loss_N + coef_N * quantity_N
            metrics[f"{term.name}/value"] = quantity_N.detach()
            metrics[f"{term.name}/coef"] = coef_N.expand_as(quantity_N).detach()
        return loss_N, metrics


def microbatch_tokens(view: PolicyView) -> Tokens:
    """The current policy's tokens of one microbatch, detached, as one minibatch of their own."""
    return Tokens(
        log_prob=view.log_prob.detach(),
        log_prob_old=view.old.log_prob_old,
        log_prob_engine=view.old.log_prob_engine,
        entropy=view.entropy.detach(),
        nucleus_entropy=None if view.nucleus_entropy is None else view.nucleus_entropy.detach(),
        advantage=view.terms.advantage,
        mask=view.old.mask,
        owner=view.old.owner,
        num_responses=view.num_responses,
        order=view.terms.order,
        minibatch=view.old.owner.new_zeros(view.old.owner.shape),
        num_minibatches=1,
        population=view.population,
    )


# ---------------------------------------------------------------- pieces around the step


@runtime_checkable
class Controller(Piece, Protocol):
    """A coefficient with a state: read at the start of a step, moved by its metrics at the end."""

    name: ClassVar[str]

    def start(self) -> dict[str, float]:
        """The state before the first step."""
        ...

    def coefs(self, state: Mapping[str, float]) -> dict[str, float]:
        """Name -> value, for ``Seen.coefs`` and the loop."""
        ...

    def update(self, state: Mapping[str, float], metrics: Metrics) -> dict[str, float]:
        """The state after a step, from its metrics."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicSampling:
    """Drop groups whose responses are all alike, and ask for more (DAPO, arXiv:2503.14476).

    Alike by ``metric``: "accuracy", all right or all wrong by the task's own grade; "shaped", of one reward
    after the method's reward terms. At most ``max_batches`` batches of prompts a step; what was kept by
    then is trained on.
    """

    max_batches: int = 10
    metric: str = "accuracy"

    def words(self) -> str:
        by_grade = self.metric == "accuracy"
        alike = "all right or all wrong, by the task's own grade" if by_grade else "of one shaped reward"
        dropped = f"groups that are {alike}, are"
        if self.max_batches == 1:
            return f"{dropped} dropped"
        return f"{dropped} replaced from up to {self.max_batches} batches of prompts a step"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondRollout:
    """More responses to the first prompts of a step, drawn at another temperature (AEPO).

    The temperature is the controller's ``second_temperature``.
    """

    fraction: float = 0.25  # of the step's prompts
    num_replaced_below: int = 60  # responses replaced at most while entropy is at or below the target
    num_replaced_above: int = 30  # and above it

    def words(self) -> str:
        return (
            f"a second rollout of the first {self.fraction:g} of the prompts; its better responses replace "
            f"up to {self.num_replaced_below} (entropy above target: {self.num_replaced_above}) responses"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Per-prompt memory is kept: running accuracy and the shortest correct response (CEEH, eqs. 9-16)."""

    up: float = 0.2  # weight of a step in which accuracy rose
    down: float = 0.05  # and in which it did not
    start: str = "zero"  # zero | first | prior
    prior: float = 0.5  # accuracy before the first visit, for start="prior"

    def words(self) -> str:
        return f"per-prompt accuracy is averaged with weight {self.up:g} up and {self.down:g} down"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningSteps:
    """How a response is cut: ``boundary`` is the text that closes a step, "" the task's own."""

    boundary: str = ""
    thinking_end: str = ""  # the text that ends the thinking part; "" takes the whole response as one

    def words(self) -> str:
        boundary = repr(self.boundary) if self.boundary else "the task's own boundary"
        scope = f" before the first {self.thinking_end!r}" if self.thinking_end else ""
        return f"steps of reasoning end with {boundary}{scope}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Curriculum:
    """Training prompts in order of semantic entropy under the starting model, in equal stages (SENT)."""

    stages: int = 2
    responses: int = 8  # a prompt, for the estimate of its semantic entropy
    weights: str = "count"  # count | log_prob | mean_log_prob, of the answers in a cluster
    drop_uniform: bool = False  # leave out prompts of semantic entropy 0

    def words(self) -> str:
        return f"prompts in {self.stages} stages of rising semantic entropy over {self.responses} responses"


# ---------------------------------------------------------------- methods, schedules


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A whole objective; prints as the recipe it is."""

    advantage: Advantage
    loss: Loss
    aggregation: Aggregation
    rewards: tuple[RewardTerm, ...] = ()
    shaping: tuple[Shaping, ...] = ()
    controllers: tuple[Controller, ...] = ()
    sampling: DynamicSampling | None = None
    second_rollout: SecondRollout | None = None
    history: History | None = None
    curriculum: Curriculum | None = None
    top_log_probs: int = 0
    steps: ReasoningSteps | None = None

    @property
    def needs_reference(self) -> bool:
        """``score`` must fill log_prob_ref."""
        return any(term.quantity.needs_reference for term in self.loss.terms)

    @property
    def group_relative(self) -> bool:
        """Equal rewards within every group of two or more teach nothing."""
        return self.advantage.group_relative and not self.loss.terms and not self.rewards

    def words(self) -> list[str]:
        """Every term with its coefficient, one plain line each."""
        lines = [f"reward: {piece.words()}" for piece in self.rewards]
        lines += [f"advantage: {self.advantage.words()}"]
        lines += [f"advantage of a token: {piece.words()}" for piece in self.shaping]
        lines += [f"policy term: {self.loss.core.words()}"]
        lines += [f"weight of the policy term: {piece.words()}" for piece in self.loss.weights]
        lines += [f"added to the loss: {term.words()}" for term in self.loss.terms]
        lines += [f"mean over: {self.aggregation.words()}"]
        around = (
            *self.controllers, self.sampling, self.second_rollout, self.history, self.curriculum, self.steps
        )  # fmt: skip
        return lines + [f"around the step: {piece.words()}" for piece in around if piece is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A method for a share of the run, with what changes at its start."""

    name: str = "whole run"
    method: Method
    until: float = 1.0
    temperature: float | None = None
    max_new_tokens: int | None = None
    reset_optimizer: bool = False
    reset_reference: bool = False
    stage: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Phases one after the other; the last one ends with the run."""

    phases: tuple[Phase, ...]

    def number_at(self, step: int, num_steps: int) -> int:
        """Which phase ``step`` (from 1) of ``num_steps`` belongs to, from 0."""
        return sum(step > end for end in self._ends(num_steps))

    def steps_of_stage(self, stage: int | None, *, after: int, before: int, num_steps: int) -> int:
        """How many steps above ``after`` and below ``before`` take one batch each of a stage's prompts."""
        starts = [0, *self._ends(num_steps)]
        stops = [*self._ends(num_steps), max(before, num_steps)]
        return sum(
            max(0, min(before - 1, stop) - max(after, start))
            for phase, start, stop in zip(self.phases, starts, stops, strict=True)
            if phase.stage == stage and phase.method.sampling is None
        )

    def _ends(self, num_steps: int) -> list[int]:
        """The last step of every phase but the last."""
        return [round(phase.until * num_steps) for phase in self.phases[:-1]]

    @property
    def needs_reference(self) -> bool:
        return any(phase.method.needs_reference for phase in self.phases)

    def words(self) -> list[str]:
        if len(self.phases) == 1:
            return self.phases[0].method.words()
        return [f"[{phase.name}] {line}" for phase in self.phases for line in phase.method.words()]
