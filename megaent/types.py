"""The nouns of a run: what is asked, what was sampled, and one packed batch ready for learning.

Legend of shape letters, used in every file of mathematics:

    P prompts (groups)   G responses per prompt   S = sum of G responses   T packed response tokens
    V vocabulary (this rank's shard inside ops)   D hidden   N tokens of one microbatch

A ``[T]`` array is aligned with ``token``: entry t describes response token t, so
``log_prob[t] = log p(token[t] | everything before it)``. The shift happens in the actor's
``build_microbatch`` and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Literal, Protocol, Self, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Shared = TypeVar("Shared")

FinishReason = Literal["stop", "length", "abort"]

Metrics = dict[str, float]
"""``area/quantity[_statistic]`` -> value; see docs/metrics.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What is asked, tokenised, with its answer key.

    Example: ``Prompt(id="gsm8k/17", tokens=(5, 9, 2), text="2 + 3 =", answer="5", split="easy")``
    """

    id: str  # stable across epochs, runs and machines: the key of all per-prompt state
    tokens: tuple[int, ...]
    text: str  # as a person reads it
    answer: str  # the answer key, never evaluated as code
    split: str = ""  # a label to report by, for example "easy" or "n=4"
    labels: tuple[tuple[str, str], ...] = ()  # more of them by name: (("subject", "Algebra"), ("level", "5"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One sampled continuation, token ids as the engine drew them (never re-tokenised)."""

    tokens: tuple[int, ...]  # the stop token included when one was drawn
    log_prob: tuple[float, ...]  # by the engine, nats, temperature applied, before top-p
    finish: FinishReason  # "length": cut at max_new_tokens
    version: int  # the oldest that it rests on: of its first token, or of a cache that it began from
    text: str = ""  # decoded, for graders that read text and for people
    top_tokens: tuple[tuple[int, ...], ...] = ()  # per token the most probable ids, when asked for
    top_log_prob: tuple[tuple[float, ...], ...] = ()  # and their log-probs, nats, highest first


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """What a verifier says of one response."""

    reward: float
    correct: bool
    note: str = ""  # why, when there is something to say: "no answer found", "timed out"
    answer: str = ""  # what was read as the answer, in a form in which equal answers are equal; "" for none
    is_scored: bool = True  # False where the verifier failed: no verdict, whatever the reward says


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The responses to one prompt. ``grades`` is empty until the reward has seen the group."""

    index: int  # place of the prompt in this step's global batch; fixes the order of everything
    prompt: Prompt
    responses: tuple[Response, ...]
    grades: tuple[Grade, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How responses are drawn. ``log_prob`` is taken at ``temperature`` and before ``top_p``."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    stop_token_ids: tuple[int, ...] = ()
    top_log_probs: int = 0  # most probable tokens to be reported with each token


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRequest:
    """One prompt to be continued ``len(seeds)`` times, each continuation from its own seed."""

    index: int  # becomes Group.index
    prompt: Prompt
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Experience:
    """One packed rollout batch (this data-parallel rank's share of it).

    Example, two prompts, three responses::

        token  = [7, 8, 2,  7, 2,  9, 9]     response tokens, back to back
        owner  = [0, 0, 0,  1, 1,  2, 2]     which response
        group  = [0, 0, 1]                   which prompt each response belongs to
    """

    prompts: tuple[Prompt, ...]  # [P]
    index: Tensor  # [P] int64, place of each prompt in the global batch of this step
    token: Tensor  # [T] int64
    owner: Tensor  # [T] int64, index into [S]
    position: Tensor  # [T] int64, place inside the response
    mask: Tensor  # [T] bool, learnt from
    log_prob_engine: Tensor  # [T] fp32, nats
    group: Tensor  # [S] int64, index into [P]
    length: Tensor  # [S] int64, tokens
    reward: Tensor  # [S] fp64
    correct: Tensor  # [S] bool
    truncated: Tensor  # [S] bool, cut by the length limit
    log_prob_old: Tensor | None = None  # [T] fp32, nats, by the trainer, filled by ``score``
    entropy: Tensor | None = None  # [T] fp32, nats, whole vocabulary, filled by ``score``
    log_prob_ref: Tensor | None = None  # [T] fp32, nats, filled by ``score`` when a term asks
    nucleus_entropy: Tensor | None = None  # [T] fp32, nats, filled by ``score`` when a term asks
    version: Tensor | None = None  # [S] int64, of the weights that drew the first token
    format_ok: Tensor | None = None  # [S] bool, an answer could be read from the response
    closes_step: Tensor | None = None  # [T] bool, the token's text closes a reasoning step
    in_thinking: Tensor | None = None  # [T] bool, before the text that ends the thinking part
    top_token: Tensor | None = None  # [T, K] int64, most probable ids by the engine
    top_log_prob: Tensor | None = None  # [T, K] fp32, nats, by the engine
    top_closes_step: Tensor | None = None  # [T] bool, the most probable token's text closes a step
    minibatch: Tensor | None = None  # [S] int64, the optimizer step that is to learn from the response
    is_second: Tensor | None = None  # [S] bool, drawn in a second rollout at another temperature
    history: Mapping[str, Tensor] = field(default_factory=dict)  # name -> [P], of the prompts' past

    @property
    def old(self) -> OldTokens:
        """The columns that a loss reads; the batch must be scored."""
        assert self.log_prob_old is not None, "a loss sees scored batches only"
        return OldTokens(
            log_prob_old=self.log_prob_old,
            log_prob_engine=self.log_prob_engine,
            log_prob_ref=self.log_prob_ref,
            mask=self.mask,
            owner=self.owner,
        )

    @property
    def num_tokens(self) -> int:
        return self.token.numel()

    @property
    def num_responses(self) -> int:
        return self.length.numel()


class Columns:
    """A dataclass of arrays that lie side by side; what is None or no array is carried along."""

    __slots__ = ()

    def at(self, place: Tensor) -> Self:
        """The rows at ``place`` of every array."""
        return self._each(lambda column: column[place])

    def to(self, device: torch.device) -> Self:
        return self._each(lambda column: column.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        own = {item.name: getattr(self, item.name) for item in fields(self)}  # type: ignore[arg-type]
        return replace(self, **{name: _changed(value, change) for name, value in own.items()})  # type: ignore[type-var]


def _changed(value: object, change: Callable[[Tensor], Tensor]) -> object:
    if isinstance(value, Mapping):
        return {name: _changed(entry, change) for name, entry in value.items()}
    return change(value) if hasattr(value, "new_zeros") else value  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class OldTokens(Columns):
    """What of a scored batch a loss reads, one entry a token."""

    log_prob_old: Tensor  # [T]
    log_prob_engine: Tensor  # [T]
    log_prob_ref: Tensor | None  # [T]
    mask: Tensor  # [T] bool
    owner: Tensor  # [T] int64, index of the response in the batch


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTerms(Columns):
    """What a method made of a batch: one number per token and term, no gradient attached."""

    advantage: Tensor  # [T]
    weight: Tensor  # [T], the aggregation over the global minibatch: the loss is sum(weight * token loss)
    minibatch: Tensor  # [T] int64, the optimizer step that learns from the token; -1 for none
    order: Tensor  # [T] int64, breaks ties between tokens, the same whoever holds them
    policy_weight: Tensor  # [T], of the policy term alone
    clip_low: Tensor  # [T], the ratio counts down to 1 - clip_low
    clip_high: Tensor  # [T], and up to 1 + clip_high
    coefs: Mapping[str, Tensor] = field(default_factory=dict)  # name of a loss term -> [T]


class Replicas(Protocol):
    """Elementwise sums and maxima over those who hold parts of one batch, each part counted once.

    Everyone must ask for the same things in the same order, also one whose part is empty.
    """

    def sum(self, value: Tensor) -> Tensor: ...

    def max(self, value: Tensor) -> Tensor: ...


class Alone:
    """A single process: its own leader, replica and world."""

    rank = 0
    world_size = 1
    dp = 1
    dp_rank = 0
    is_leader = True

    def __str__(self) -> str:
        return "one process"

    def sum(self, value: Tensor) -> Tensor:
        return value

    def max(self, value: Tensor) -> Tensor:
        return value

    def share(self, value: Shared | None) -> Shared:
        assert value is not None, "a single process shares what it has"
        return value

    def from_rank_0(self, value: Shared | None) -> Shared:
        return self.share(value)

    def gather_over_replicas(self, values: list[Shared]) -> list[Shared]:
        return values

    def exchange(self, parts: list[list[Shared]]) -> list[Shared]:
        return parts[0]

    def gather_everywhere(self, value: Shared) -> list[Shared]:
        return [value]

    def barrier(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyView:
    """What a loss may read of one microbatch; log_prob and the entropies alone carry a gradient."""

    log_prob: Tensor  # [N]
    entropy: Tensor  # [N] nats
    old: OldTokens  # [N]
    terms: TokenTerms  # [N]
    num_responses: int  # of the batch
    population: Replicas  # the context-parallel ranks, which hold parts of the same responses
    nucleus_entropy: Tensor | None = None  # [N] nats, with a gradient, where a term asks

    @property
    def log_ratio(self) -> Tensor:
        return self.log_prob - self.old.log_prob_old

    def response_mean(self, value_N: Tensor) -> Tensor:
        """[N] the mean of a detached ``value_N`` over the trained tokens of each token's response."""
        value_N = value_N.detach()
        mask_N = self.old.mask.double()
        sums_2S = mask_N.new_zeros(2, self.num_responses)
        sums_2S[0].index_add_(0, self.old.owner, value_N.double() * mask_N)
        sums_2S[1].index_add_(0, self.old.owner, mask_N)
        total_S, count_S = self.population.sum(sums_2S)
        return (total_S / count_S.clamp(min=1))[self.old.owner].to(value_N.dtype)
