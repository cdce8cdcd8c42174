"""Plain lists of a worked case to what the pieces of a method read; everything in fp64."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from support.builders import seen
from support.views import policy_view
from torch import Tensor

from megaent.objective.seen import Tokens, batch_tokens
from megaent.types import Alone, Experience, PolicyView, Prompt

__all__ = ["Numbers", "experience", "flat", "numbers", "rows_of", "seen", "tokens", "view"]

Numbers = Sequence[float] | Tensor


def numbers(values: Numbers) -> Tensor:
    """fp64, whatever came."""
    return torch.as_tensor(values, dtype=torch.float64)


def flat(rows: Iterable[Sequence[Any]]) -> list[Any]:
    """The rows of a case, one after the other."""
    return list(chain.from_iterable(rows))


def rows_of(values: Tensor, lengths: Sequence[int]) -> list[list[float]]:
    """[T] back to one list a response."""
    return [part.tolist() for part in values.split(list(lengths))]


def experience(
    lengths: Sequence[int],
    rewards: Numbers | None = None,
    groups: Sequence[int] | None = None,
    *,
    correct: Sequence[Any] | None = None,
    truncated: Sequence[Any] | None = None,
    format_ok: Sequence[Any] | None = None,
    is_second: Sequence[Any] | None = None,
    token: Sequence[int] | None = None,
    mask: Sequence[Any] | None = None,
    entropy: Numbers | None = None,
    log_prob_old: Numbers | None = None,
    log_prob_engine: Numbers | None = None,
    log_prob_ref: Numbers | None = None,
    history: Mapping[str, Numbers] | None = None,
    **more: Any,
) -> Experience:
    """Responses of these ``lengths``; ``groups`` numbers the prompt of each from 0 (default: one prompt).

    Per-response and per-token inputs are flat lists. Rewards default to 0, ``correct`` to reward > 0,
    log-probs to -1 (the engine's to the trainer's), entropies to 0; ``more`` are further fields, as they are.
    """
    size_S = torch.tensor(list(lengths), dtype=torch.int64)
    num_responses, num_tokens = len(lengths), int(size_S.sum())
    group_S = torch.tensor(list(groups) if groups is not None else [0] * num_responses, dtype=torch.int64)
    num_groups = int(group_S.max()) + 1 if num_responses else 0
    reward_S = numbers(rewards if rewards is not None else [0.0] * num_responses)
    old_T = numbers(log_prob_old if log_prob_old is not None else [-1.0] * num_tokens)
    starts_S = size_S.cumsum(0) - size_S
    owner_T = torch.repeat_interleave(torch.arange(num_responses), size_S)
    return Experience(
        prompts=tuple(Prompt(id=f"p{p}", tokens=(1,), text="", answer="") for p in range(num_groups)),
        index=torch.arange(num_groups),
        token=torch.tensor(list(token) if token is not None else list(range(num_tokens)), dtype=torch.int64),
        owner=owner_T,
        position=torch.arange(num_tokens) - starts_S[owner_T],
        mask=_flags(mask) if mask is not None else torch.ones(num_tokens, dtype=torch.bool),
        log_prob_engine=numbers(log_prob_engine) if log_prob_engine is not None else old_T,
        group=group_S,
        length=size_S,
        reward=reward_S,
        correct=_flags(correct) if correct is not None else reward_S > 0,
        truncated=_flags(truncated if truncated is not None else [False] * num_responses),
        log_prob_old=old_T,
        entropy=numbers(entropy if entropy is not None else [0.0] * num_tokens),
        log_prob_ref=None if log_prob_ref is None else numbers(log_prob_ref),
        format_ok=None if format_ok is None else _flags(format_ok),
        is_second=None if is_second is None else _flags(is_second),
        history={name: numbers(values) for name, values in (history or {}).items()},
        **more,
    )


def tokens(batch: Experience, advantage: Numbers | None = None, log_prob: Numbers | None = None) -> Tokens:
    """All tokens of the batch as one minibatch; ``log_prob`` is the current policy's (default: the old)."""
    values = numbers(advantage if advantage is not None else [0.0] * batch.num_tokens)
    made = batch_tokens(seen(batch), values)
    if log_prob is None:
        return made
    return replace(made, log_prob=numbers(log_prob))


def view(
    batch: Experience,
    advantage: Numbers | None = None,
    log_prob: Numbers | None = None,
    *,
    entropy: Numbers | None = None,
    clip: tuple[float, float] | tuple[Tensor, Tensor] = (0.2, 0.2),
    **changes: Any,
) -> PolicyView:
    """The whole batch as one microbatch; ``log_prob`` and ``entropy`` (default: the old) are leaves."""
    old = tokens(batch, advantage)
    ones_N = torch.ones_like(old.advantage)
    given: dict[str, Any] = {
        "log_prob": numbers(old.log_prob if log_prob is None else log_prob).clone().requires_grad_(),
        "entropy": numbers(old.entropy if entropy is None else entropy).clone().requires_grad_(),
        "log_prob_old": old.log_prob_old,
        "log_prob_engine": old.log_prob_engine,
        "log_prob_ref": batch.log_prob_ref,
        "advantage": old.advantage,
        "policy_weight": ones_N,
        "clip_low": clip[0] * ones_N,
        "clip_high": clip[1] * ones_N,
        "coefs": {},
        "mask": batch.mask,
        "owner": batch.owner,
        "num_responses": batch.num_responses,
        "order": old.order,
        "population": Alone(),
    }
    return policy_view(**(given | changes))


def _flags(values: Sequence[Any]) -> Tensor:
    return torch.tensor([bool(value) for value in values], dtype=torch.bool)
