"""Small batches of known content, and replicas that really exchange what they sum."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import torch
from support.views import policy_view
from torch import Tensor

from megaent.experience.pack import pack
from megaent.objective.seen import Seen
from megaent.types import Alone, Experience, Grade, Group, PolicyView, Prompt, Response

_Share = TypeVar("_Share")
_T = TypeVar("_T")


def group(index: int, rewards: Sequence[float], lengths: Sequence[int], *, prompt_length: int = 3) -> Group:
    """Tokens count up from 100 * index, so that each can be told from the others."""
    prompt = Prompt(id=f"p{index}", tokens=tuple(range(prompt_length)), text="", answer="")
    responses, first = [], 1000 * (index + 1)
    for length in lengths:
        tokens = tuple(range(first, first + length))
        log_prob = tuple(-0.001 * (token % 997) - 0.01 for token in tokens)
        finish = "length" if length >= 9 else "stop"
        responses.append(Response(tokens=tokens, log_prob=log_prob, finish=finish, version=1))
        first += length
    grades = tuple(Grade(reward=reward, correct=reward > 0) for reward in rewards)
    return Group(index=index, prompt=prompt, responses=tuple(responses), grades=grades)


def scored(groups: Sequence[Group], *, seed: int = 0, vocab_size: int = 50) -> Experience:
    """Packed, with log-probs near the engine's and entropies that depend on the token alone."""
    batch = pack(groups)
    noise = torch.Generator().manual_seed(seed)
    drawn_V = torch.rand(100_000, 2, generator=noise)
    entropy_T = drawn_V[batch.token, 0].square() * torch.tensor(float(vocab_size)).log()
    mismatch_T = 0.02 * (drawn_V[batch.token, 1] - 0.5)
    return replace(batch, log_prob_old=batch.log_prob_engine + mismatch_T, entropy=entropy_T)


def masked(batch: Experience, *, every: int) -> Experience:
    """Without every ``every``-th token, by the token's id, so the same however the batch is split."""
    return replace(batch, mask=batch.token % every != 0)


def view(
    num_tokens: int, *, seed: int = 0, dtype: torch.dtype = torch.float64, spread: float = 0.5
) -> PolicyView:
    """A microbatch of one response whose log-probs and entropies are leaves with a gradient."""
    noise = torch.Generator().manual_seed(seed)
    log_prob, old, engine, ref, advantage = torch.randn(5, num_tokens, generator=noise, dtype=dtype)
    return policy_view(
        log_prob=(spread * log_prob - 2).requires_grad_(),
        entropy=torch.rand(num_tokens, generator=noise, dtype=dtype).requires_grad_(),
        nucleus_entropy=torch.rand(num_tokens, generator=noise, dtype=dtype).requires_grad_(),
        log_prob_old=spread * old - 2,
        log_prob_engine=spread * engine - 2,
        log_prob_ref=spread * ref - 2,
        advantage=advantage,
        policy_weight=torch.ones_like(advantage),
        clip_low=torch.full_like(advantage, 0.2),
        clip_high=torch.full_like(advantage, 0.2),
        coefs={},
        mask=torch.ones(num_tokens, dtype=torch.bool),
        owner=torch.zeros(num_tokens, dtype=torch.int64),
        num_responses=1,
        order=torch.arange(num_tokens),
        population=Alone(),
    )


def seen(batch: Experience, **changes: Any) -> Seen:
    """One minibatch, one replica, unless told otherwise."""
    given = {
        "population": Alone(),
        "minibatch_S": torch.zeros(batch.num_responses, dtype=torch.int64),
        "num_minibatches": 1,
    }
    return Seen(batch=batch, **(given | changes))


class ThreadReplica:
    """One of several replicas, each a thread."""

    def __init__(self, place: int, board: list[Tensor | None], barrier: threading.Barrier) -> None:
        self._place, self._board, self._barrier = place, board, barrier

    def sum(self, value: Tensor) -> Tensor:
        return torch.stack(self._everyone(value)).sum(0)

    def max(self, value: Tensor) -> Tensor:
        return torch.stack(self._everyone(value)).amax(0)

    def _everyone(self, value: Tensor) -> list[Tensor]:
        self._board[self._place] = value
        self._barrier.wait(timeout=30)
        everyone = [part for part in self._board if part is not None]
        self._barrier.wait(timeout=30)
        return everyone


def on_replicas(call: Callable[[_Share, ThreadReplica], _T], shares: Sequence[_Share]) -> list[_T]:
    """``call`` on each share, often a batch, at once; what they sum, they sum over all of them."""
    board: list[Tensor | None] = [None] * len(shares)
    barrier = threading.Barrier(len(shares))

    def run(place: int) -> _T:
        try:
            return call(shares[place], ThreadReplica(place, board, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(len(shares)) as pool:
        return list(pool.map(run, range(len(shares))))
