"""What the responses of a second rollout teach, and whose place they take (AEPO, arXiv:2510.08141)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from megaent.objective.advantages import GroupRelative
from megaent.objective.checks import require
from megaent.objective.controllers import coef_of
from megaent.objective.seen import Seen, Tokens, first_of_group
from megaent.objective.select import smallest
from megaent.types import Experience


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondAdvantage:
    """GRPO's advantage; in the second rollout ``advantage`` where that is positive, and 0 elsewhere.

    Reports "aepo/entropy", the mean entropy of the first rollout's trained tokens in nats, which decides
    on the next step's second temperature.
    """

    advantage: float = 1.0
    normalize: bool = True
    group_relative: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(self.advantage > 0, "advantage", "be above 0", self.advantage)

    def __call__(self, reward_S: Tensor, seen: Seen) -> Tensor:
        batch = seen.batch
        assert batch.entropy is not None, "pieces see scored batches only"
        is_second_S = drawn_second(batch)
        seen.notes.mean("aepo/entropy", batch.entropy, batch.mask & ~is_second_S[batch.owner])
        relative_S = GroupRelative(normalize=self.normalize)(reward_S, seen)
        return torch.where(is_second_S, self.advantage * (relative_S > 0).to(relative_S.dtype), relative_S)

    def words(self) -> str:
        division = ", over its standard deviation" if self.normalize else ""
        return (
            f"reward minus the group's mean{division}; {self.advantage:g} for the better responses of the "
            "second rollout"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Replace:
    """Weight 0 for responses whose place a response of the second rollout takes.

    Responses of the second rollout with a positive advantage take part, the first ones in the order of the
    batch up to the controller's "num_replaced"; the others weigh 0, and so do as many responses of the first
    rollout, again the first ones.
    """

    @property
    def scope(self) -> str:
        return "mini"

    def __call__(self, tokens: Tokens, seen: Seen | None) -> Tensor:
        limit = coef_of(seen, "num_replaced")
        assert seen is not None, "coef_of checked it"
        responses = _responses(tokens, seen)
        is_second_S = drawn_second(seen.batch)
        none_S = torch.zeros_like(responses.advantage)  # all equal, so that the order alone decides
        joins_S = smallest(responses, none_S, torch.tensor([limit]), is_second_S & (responses.advantage > 0))
        num_joined_1 = responses.total(torch.ones_like(none_S), joins_S)
        leaves_S = smallest(responses, none_S, num_joined_1, ~is_second_S)
        seen.notes.mean("aepo/replaced", leaves_S)
        weight_S = (joins_S | (~is_second_S & ~leaves_S)).to(tokens.advantage.dtype)
        return weight_S[tokens.owner]

    def words(self) -> str:
        return "0 on responses replaced by those of the second rollout"


def drawn_second(batch: Experience) -> Tensor:
    """[S] bool, all False for a batch without a second rollout."""
    return torch.zeros_like(batch.correct) if batch.is_second is None else batch.is_second


def _responses(tokens: Tokens, seen: Seen) -> Tokens:
    """The responses that some minibatch learns from, as if each were one token of a single minibatch."""
    batch = seen.batch
    highest_S = tokens.advantage.new_full((batch.num_responses,), -torch.inf)
    highest_S = highest_S.scatter_reduce(0, tokens.owner, tokens.advantage, "amax")
    number_S = torch.arange(batch.num_responses) - first_of_group(batch)[batch.group]
    unknown_S = torch.zeros_like(highest_S)
    return Tokens(
        log_prob=unknown_S,
        log_prob_old=unknown_S,
        log_prob_engine=unknown_S,
        entropy=unknown_S,
        advantage=highest_S,
        mask=seen.minibatch_S >= 0,
        owner=torch.arange(batch.num_responses),
        num_responses=batch.num_responses,
        order=(batch.index[batch.group] << 16) + number_S,
        minibatch=torch.zeros_like(number_S),
        num_minibatches=1,
        population=tokens.population,
    )
