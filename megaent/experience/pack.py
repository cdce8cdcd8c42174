"""Graded groups to one packed experience, sorted by their place in the global batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate, chain

import torch

from megaent.errors import EngineError
from megaent.types import Experience, Group, Response

SECOND_ROLLOUT = 1 << 20  # added to the place of a group that is the second rollout of its prompt


def pack(groups: Sequence[Group]) -> Experience:
    """This replica's groups as [T] arrays; no groups give an empty experience.

    Raises EngineError for a response whose log-probs do not match its tokens or are not finite, and
    ValueError for a group that was not graded.
    """
    ordered = sorted(groups, key=lambda group: group.index)
    for group in ordered:
        _check(group)
    responses = [response for group in ordered for response in group.responses]
    grades = [grade for group in ordered for grade in group.grades]
    lengths = [len(response.tokens) for response in responses]
    owner = torch.repeat_interleave(torch.arange(len(responses)), torch.tensor(lengths, dtype=torch.int64))
    starts = torch.tensor([0, *accumulate(lengths)][:-1], dtype=torch.int64)
    token = torch.tensor(list(chain.from_iterable(r.tokens for r in responses)), dtype=torch.int64)
    return Experience(
        prompts=tuple(group.prompt for group in ordered),
        index=torch.tensor([group.index for group in ordered], dtype=torch.int64),
        token=token,
        owner=owner,
        position=torch.arange(token.numel()) - starts[owner] if responses else token.clone(),
        mask=torch.ones(token.numel(), dtype=torch.bool),
        log_prob_engine=torch.tensor(
            list(chain.from_iterable(r.log_prob for r in responses)), dtype=torch.float32
        ),
        group=torch.repeat_interleave(
            torch.arange(len(ordered)), torch.tensor([len(g.responses) for g in ordered], dtype=torch.int64)
        ),
        length=torch.tensor(lengths, dtype=torch.int64),
        reward=torch.tensor([grade.reward for grade in grades], dtype=torch.float64),
        correct=torch.tensor([grade.correct for grade in grades], dtype=torch.bool),
        truncated=torch.tensor([r.finish == "length" for r in responses], dtype=torch.bool),
        version=torch.tensor([r.version for r in responses], dtype=torch.int64),
        format_ok=torch.tensor([grade.answer != "" for grade in grades], dtype=torch.bool),
        top_token=_rows([row for response in responses for row in response.top_tokens], torch.int64),
        top_log_prob=_rows([row for response in responses for row in response.top_log_prob], torch.float32),
    )


def _rows(rows: list[tuple], dtype: torch.dtype) -> torch.Tensor | None:
    """[T, K] of what the engine reported of the most probable tokens, where it was asked."""
    return torch.tensor(rows, dtype=dtype) if rows else None


def mark_steps(
    batch: Experience, closing: torch.Tensor, ends_thinking: torch.Tensor | None = None
) -> Experience:
    """``batch`` with the tokens marked that close a reasoning step; ``closing`` are their ids.

    ``ends_thinking`` are the ids of tokens that end the thinking part: what comes before the first of them in
    a response is thinking, all of it where there is none.
    """
    top = batch.top_token
    return replace(
        batch,
        closes_step=torch.isin(batch.token, closing),
        top_closes_step=None if top is None else torch.isin(top[:, 0], closing),
        in_thinking=None if ends_thinking is None else _before_first(batch, ends_thinking),
    )


def _before_first(batch: Experience, ids: torch.Tensor) -> torch.Tensor:
    """[T] bool: no token of ``ids`` stands here or earlier in the response."""
    so_far = torch.nn.functional.pad(torch.isin(batch.token, ids).long().cumsum(0), (1, 0))
    starts_S = batch.length.cumsum(0) - batch.length
    return so_far[1:] == so_far[starts_S][batch.owner]


def _check(group: Group) -> None:
    if len(group.grades) != len(group.responses):
        raise ValueError(
            f"group {group.index} has {len(group.responses)} responses and {len(group.grades)} grades; "
            "grade it first"
        )
    for number, response in enumerate(group.responses):
        _check_response(group, number, response)


def _check_response(group: Group, number: int, response: Response) -> None:
    where = f"response {number} to prompt {group.prompt.id!r}"
    if len(response.log_prob) != len(response.tokens):
        raise EngineError(f"{where} has {len(response.tokens)} tokens but {len(response.log_prob)} log-probs")
    if len(response.top_tokens) not in (0, len(response.tokens)):
        raise EngineError(
            f"{where} has {len(response.tokens)} tokens but the most probable tokens of "
            f"{len(response.top_tokens)}"
        )
    bad = [place for place, value in enumerate(response.log_prob) if not math.isfinite(value)]
    if bad:
        raise EngineError(
            f"{where} has the log-prob {response.log_prob[bad[0]]} at token {bad[0]}; the engine's numbers "
            "must be finite: check its precision and the weights it was given"
        )


def assign_minibatches(
    index_P: torch.Tensor, all_indices: Sequence[int], num_minibatches: int
) -> torch.Tensor:
    """[P] the minibatch of each group: whole groups in prompt order, as equal as they can be.

    ``all_indices`` are the places of the groups of every replica, so that the split does not depend
    on who holds what.
    """
    minibatch = minibatch_of_places(all_indices, num_minibatches)
    return torch.tensor([minibatch[index] for index in index_P.tolist()], dtype=torch.int64)


def minibatch_of_places(places: Iterable[int], num_minibatches: int) -> dict[int, int]:
    """The same as a table, for every place there is."""
    ordered = sorted(set(places))
    return {place: rank * num_minibatches // len(ordered) for rank, place in enumerate(ordered)}
