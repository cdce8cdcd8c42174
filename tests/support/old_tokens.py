"""Tokens of a scored batch for the tests of token rules, and the same tokens split over replicas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from support.builders import group, masked, on_replicas, scored, seen
from torch import Tensor

from megaent.objective.seen import Seen, Tokens, batch_tokens
from megaent.types import Alone, Experience, Replicas

GROUPS = [
    group(0, [1, 0, 1], [4, 2, 9]),
    group(1, [0, 1], [1, 7]),
    group(2, [1, 1, 0, 0], [3, 3, 1, 12]),
    group(3, [0, 1], [5, 6]),
    group(4, [1, 0], [8, 3]),
]
MINIBATCH_OF_GROUP = [0, 1, 0, 1, -1]  # the last group is in none


def seen_by(batch: Experience, population: Replicas | None = None) -> Seen:
    """Two minibatches, by the place of the prompt."""
    return seen(
        batch,
        population=population or Alone(),
        minibatch_S=torch.tensor(MINIBATCH_OF_GROUP)[batch.index][batch.group],
        num_minibatches=2,
        progress=0.25,
    )


def old_tokens(batch: Experience, population: Replicas | None = None) -> Tokens:
    """Advantages depend on the token alone, so they are the same in every share."""
    return batch_tokens(seen_by(batch, population), torch.sin(batch.token.double()).float())


def a_batch() -> Experience:
    """A third of the tokens is not learnt from."""
    return masked(scored(GROUPS), every=3)


def assert_same_on_replicas(rule: Callable[[Tokens, Seen], Tensor]) -> None:
    """However the groups are split, also with a replica that has none; ``rule`` gives [N]."""
    whole = a_batch()
    expected = rule(old_tokens(whole), seen_by(whole))
    for cuts in ((1,), (2, 3), (0, 4), (1, 2, 3, 4)):
        found = on_replicas(lambda b, p: rule(old_tokens(b, p), seen_by(b, p)), shares(cuts))
        assert torch.equal(torch.cat(found), expected), f"cut before the groups {cuts}"


def shares(cuts: Sequence[int]) -> list[Experience]:
    """The groups up to each cut and after the last."""
    borders = [0, *cuts, len(GROUPS)]
    return [masked(scored(GROUPS[start:stop]), every=3) for start, stop in pairwise(borders)]


def in_minibatch(tokens: Tokens, minibatch: int) -> Tensor:
    """[N] bool, the tokens that count there."""
    return tokens.mask & (tokens.minibatch == minibatch)
