"""Segments that come back, found in C++: against a search of every place and against the one in torch."""

from __future__ import annotations

import logging
import random

import pytest
import torch
from torch import Tensor

from megaent.objective.segments import segments
from megaent.ops import backend
from megaent.ops.backend import available_backends
from megaent.ops.segment_support import Segments, search_backend, search_by_doubling, segment_support

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
        theirs = search_by_doubling(token_L, found, correct_R)
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
    theirs = search_by_doubling(token_L, found, correct_R)
    assert torch.equal(same_L, theirs.same)
    assert not shared_L.any()


# ---------------------------------------------------------------- a group of full size


class Passage:
    """A text of ids of its own, held whole by some responses and up to its middle by one other."""

    def __init__(self, number: int, length: int, draw: random.Random, num_responses: int) -> None:
        self.text = torch.arange(length) + 1 + number * length
        self.middle = length // 2
        chosen = draw.sample(range(num_responses), draw.randint(2, 6))
        self.holders, self.beginner = chosen[1:], chosen[0]

    def support(self, is_right: list[bool], *, is_whole: bool) -> tuple[Tensor, Tensor]:
        """Of every token where the text is held: its beginning is one pattern, the whole is another."""
        stop = self.text.numel() if is_whole else self.middle
        same_L = torch.zeros(stop, dtype=torch.int64)
        shared_L = torch.zeros(stop, dtype=torch.bool)
        patterns = [([*self.holders, self.beginner], self.middle), (self.holders, stop)]
        for owners, stop in patterns if is_whole else patterns[:1]:
            if len({is_right[owner] for owner in owners}) == 2:
                shared_L[:stop] = True
            elif len(owners) > 1:
                same_L[:stop].clamp_(min=len(owners))
        return same_L, shared_L


def test_a_group_of_64_responses_of_16k_tokens() -> None:
    """Passages between tokens that nobody else has; what holds for each is known from who holds it."""
    draw, num_responses, length = random.Random(5), 64, 256
    is_right = [draw.random() < 0.5 for _ in range(num_responses)]
    passages = [Passage(number, length, draw, num_responses) for number in range(700)]
    rows: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in range(num_responses)]
    for passage in passages:
        for owner in passage.holders:
            rows[owner].append((passage.text, *passage.support(is_right, is_whole=True)))
        begun = passage.text[: passage.middle]
        rows[passage.beginner].append((begun, *passage.support(is_right, is_whole=False)))
    token_L, is_low_L, owner_L, same, shared = packed(rows, 16 * 1024, draw)
    found = segments(is_low_L, owner_L, 5)
    assert token_L.numel() == num_responses * 16 * 1024
    assert found.start.numel() == sum(map(len, rows))
    same_L, shared_L = segment_support(token_L, found, torch.tensor(is_right))
    assert torch.equal(same_L, same)
    assert torch.equal(shared_L, shared)


def packed(
    rows: list[list[tuple[Tensor, Tensor, Tensor]]], num_tokens: int, draw: random.Random
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Every response's passages in random order, a gap of high entropy before each, filled to one length."""
    shape = len(rows), num_tokens
    token_RT = -1 - torch.arange(len(rows) * num_tokens).view(shape)  # ids that nobody else has
    is_low_RT, shared_RT = torch.zeros(2, *shape, dtype=torch.bool)
    same_RT = torch.zeros(shape, dtype=torch.int64)
    for row, passages in enumerate(rows):
        place = 0
        for text, same, shared in draw.sample(passages, len(passages)):
            at = slice(place := place + 3, place := place + text.numel())
            assert place <= num_tokens
            token_RT[row, at], is_low_RT[row, at] = text, True
            same_RT[row, at], shared_RT[row, at] = same, shared
    owner_L = torch.arange(len(rows)).repeat_interleave(num_tokens)
    return token_RT.flatten(), is_low_RT.flatten(), owner_L, same_RT.flatten(), shared_RT.flatten()


# ---------------------------------------------------------------- which search, and what is refused


@pytest.mark.parametrize(("named", "chosen"), [(None, "cpu"), ("cpu", "cpu"), ("reference", "reference")])
def test_the_switch_of_the_ops_names_the_search_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, named: str | None, chosen: str
) -> None:
    monkeypatch.delenv("MEGAENT_OPS_BACKEND", raising=False)
    if named is not None:
        monkeypatch.setenv("MEGAENT_OPS_BACKEND", named)
    backend.announce.cache_clear()
    token_L, found, correct_R = random_group(3, 8)
    with caplog.at_level(logging.INFO, logger="megaent.ops.backend"):
        for _ in range(3):
            support = segment_support(token_L, found, correct_R)
    assert caplog.messages == [f"megaent.ops backend of segment_support: {chosen}"]
    assert search_backend("cuda") == "reference"
    for mine, theirs in zip(support, search_by_doubling(token_L, found, correct_R), strict=True):
        assert torch.equal(mine, theirs)


def test_a_search_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEGAENT_OPS_BACKEND", "fast")
    with pytest.raises(ValueError, match=r"backend must be one of reference, cpu.*got 'fast'"):
        segment_support(*random_group(3, 8))


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
