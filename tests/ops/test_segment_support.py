"""Segments that come back, found in C++: against a search of every place and against the one in torch."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from megaent.objective.segments import Segments, segment_support, segments
from megaent.ops.backend import available_backends

pytestmark = pytest.mark.skipif(
    "cpu" not in available_backends(), reason="the C++ ops are not built; run `./scripts/build_ops`"
)


def compiled(token_L: Tensor, found: Segments, correct_R: Tensor) -> tuple[Tensor, Tensor]:
    from megaent.ops import cpu

    return cpu.segment_support(token_L, found.start, found.stop, found.owner, correct_R)


def random_group(seed: int, num_responses: int) -> tuple[Tensor, Segments, Tensor]:
    rng, draw = torch.Generator().manual_seed(seed), random.Random(seed)
    lengths = torch.tensor([draw.randint(0, 40) for _ in range(num_responses)])
    num_tokens = int(lengths.sum())
    token_L = torch.randint(draw.choice([1, 2, 3, 8]), (num_tokens,), generator=rng) * draw.choice(
        [1, 10**12]
    )
    owner_L = torch.repeat_interleave(torch.arange(num_responses), lengths)
    is_low_L = torch.rand(num_tokens, generator=rng) < draw.choice([0.3, 0.7, 0.95, 1.0])
    correct_R = torch.rand(num_responses, generator=rng) < draw.choice([0.0, 0.5, 1.0])
    return token_L, segments(is_low_L, owner_L, draw.choice([1, 2, 5])), correct_R


def every_place(token_L: Tensor, found: Segments, correct_R: Tensor) -> tuple[list[int], list[bool]]:
    """By looking for every segment at every place of every segment."""
    tokens, right = token_L.tolist(), correct_R.tolist()
    runs = list(zip(found.start.tolist(), found.stop.tolist(), found.owner.tolist(), strict=True))
    same, shared = [0] * len(tokens), [False] * len(tokens)
    for pattern in {tuple(tokens[start:stop]) for start, stop, _ in runs}:
        places = [
            (at, owner)
            for start, stop, owner in runs
            for at in range(start, stop - len(pattern) + 1)
            if tuple(tokens[at : at + len(pattern)]) == pattern
        ]
        owners = {owner for _, owner in places}
        is_shared = len({right[owner] for owner in owners}) == 2
        for at, _ in places:
            for place in range(at, at + len(pattern)):
                shared[place] |= is_shared
                if not is_shared and len(owners) > 1:
                    same[place] = max(same[place], len(owners))
    return same, shared


@pytest.mark.parametrize("num_responses", [1, 2, 5, 64, 65, 130])
def test_it_finds_what_a_search_of_every_place_finds(num_responses: int) -> None:
    for seed in range(20 if num_responses < 60 else 2):
        token_L, found, correct_R = random_group(seed, num_responses)
        same_L, shared_L = compiled(token_L, found, correct_R)
        assert (same_L.tolist(), shared_L.tolist()) == every_place(token_L, found, correct_R), seed


def test_it_finds_what_the_search_by_doubling_finds() -> None:
    for seed in range(40):
        token_L, found, correct_R = random_group(seed, 8)
        theirs = segment_support(token_L, found, correct_R)
        same_L, shared_L = compiled(token_L, found, correct_R)
        assert torch.equal(same_L, theirs.same), seed
        assert torch.equal(shared_L, theirs.is_shared), seed


def test_one_token_repeated_is_the_worst_case_and_right() -> None:
    """Every prefix is a suffix of the next: 16 responses of 2000 equal tokens, each cut elsewhere."""
    token_L, owner_L = torch.full((16 * 2000,), 7), torch.arange(16).repeat_interleave(2000)
    is_low_L = torch.ones(16 * 2000, dtype=torch.bool)
    is_low_L[torch.arange(16) * 2000 + torch.arange(16) * 61] = False
    found, correct_R = segments(is_low_L, owner_L, 1), torch.ones(16, dtype=torch.bool)
    same_L, shared_L = compiled(token_L, found, correct_R)
    theirs = segment_support(token_L, found, correct_R)
    assert torch.equal(same_L, theirs.same)
    assert not shared_L.any()


def test_a_group_without_segments_has_no_support() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    same_L, shared_L = compiled(torch.arange(5), Segments(none, none, none), torch.tensor([True]))
    assert same_L.tolist() == [0] * 5
    assert shared_L.tolist() == [False] * 5


@pytest.mark.parametrize(
    ("start", "stop", "owner", "message"),
    [
        ([0, 1], [2, 3], [0, 1], r"ascending, apart and inside the 5 tokens; segment 1 is \[1, 3\)"),
        ([2, 0], [3, 1], [0, 1], r"segment 1 is \[0, 1\)"),
        ([0], [6], [0], r"segment 0 is \[0, 6\)"),
        ([0], [0], [0], r"segment 0 is \[0, 0\)"),
        ([0], [2], [2], r"owner must lie in \[0, 2\), got 2 at segment 0"),
        ([0], [2], [0, 1], r"owner must have shape \[1\], got \[2\]"),
    ],
)
def test_bad_segments_are_refused(start: list[int], stop: list[int], owner: list[int], message: str) -> None:
    found = Segments(torch.tensor(start), torch.tensor(stop), torch.tensor(owner))
    with pytest.raises(RuntimeError, match=message):
        compiled(torch.arange(5), found, torch.tensor([True, False]))
