"""From packed responses to model inputs: each response token is predicted once, and in its place."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from support.builders import group, scored

from megaent.actor.microbatch import (
    Microbatch,
    build_microbatch,
    pack_multiple,
    padded_length,
    sequence_lengths,
    split_microbatches,
)
from megaent.errors import ConfigError
from megaent.types import Experience

pytestmark = pytest.mark.full


@pytest.fixture
def batch() -> Experience:
    return scored(
        [
            group(0, [1, 0, 1], [4, 1, 9], prompt_length=3),
            group(1, [0, 1], [1, 7], prompt_length=1),
            group(2, [1, 1, 0], [0, 13, 2], prompt_length=6),
        ]
    )


LAYOUTS = [(cp, tp) for cp in (1, 2, 4) for tp in (1, 2)]


def build(
    batch: Experience, responses: list[int], *, cp: int, cp_rank: int, tp: int, at_least: int = 0
) -> Microbatch:
    multiple = pack_multiple(cp=cp, tp=tp)
    return build_microbatch(batch, responses, cp=cp, cp_rank=cp_rank, multiple=multiple, at_least=at_least)


def whole_sequence(batch: Experience, response: int) -> list[int]:
    prompt = batch.prompts[int(batch.group[response])].tokens
    return [*prompt, *batch.token[batch.owner == response].tolist()]


@pytest.mark.parametrize(("cp", "tp"), LAYOUTS)
@pytest.mark.parametrize("responses", [[0, 1, 2, 3, 4, 5, 6, 7], [2, 4], [5], [3], []])
def test_context_ranks_together_predict_each_response_token_once(
    batch: Experience, responses: list[int], cp: int, tp: int
) -> None:
    parts = [build(batch, responses, cp=cp, cp_rank=rank, tp=tp) for rank in range(cp)]
    places = [place for part in parts for place in part.place.tolist()]
    expected = [t for t in range(batch.num_tokens) if int(batch.owner[t]) in responses]
    assert sorted(places) == expected
    for part in parts:
        assert torch.equal(part.target, batch.token[part.place])


@pytest.mark.parametrize(("cp", "tp"), LAYOUTS)
def test_a_row_reads_the_token_before_its_target(batch: Experience, cp: int, tp: int) -> None:
    for rank in range(cp):
        part = build(batch, list(range(8)), cp=cp, cp_rank=rank, tp=tp)
        for row, place in zip(part.row.tolist(), part.place.tolist(), strict=True):
            response = int(batch.owner[place])
            sequence = whole_sequence(batch, response)
            prompt_length = len(sequence) - int(batch.length[response])
            read = prompt_length - 1 + int(batch.position[place])
            assert int(part.input_ids[0, row]) == sequence[read]
            assert int(part.position_ids[0, row]) == read
            assert sequence[read + 1] == int(batch.token[place])


@pytest.mark.parametrize(("cp", "tp"), LAYOUTS)
def test_every_prompt_and_response_token_is_read_at_its_position(batch: Experience, cp: int, tp: int) -> None:
    """Each sequence but its last token, whichever rank reads it; what else is read is token 0 of padding."""
    responses = [0, 2, 4, 6]
    parts = [build(batch, responses, cp=cp, cp_rank=rank, tp=tp) for rank in range(cp)]
    found: Counter = Counter()
    for part in parts:
        start = 0
        for number, (left, right) in enumerate(itertools.pairwise(part.packed.borders)):
            width = (right - left) // cp
            columns = slice(start, start + width)
            positions, tokens = part.position_ids[0, columns].tolist(), part.input_ids[0, columns].tolist()
            found.update((number, p, t) for p, t in zip(positions, tokens, strict=True))
            start += width
        assert start == part.input_ids.shape[1]
    expected = Counter(
        (number, place, token)
        for number, response in enumerate(responses)
        for place, token in enumerate(whole_sequence(batch, response)[:-1])
    )
    assert not expected - found
    assert {token for _, _, token in (found - expected).elements()} <= {0}
    assert all(count == 1 for count in found.values()), "no place of a sequence is read twice"


@pytest.mark.parametrize(("cp", "tp"), LAYOUTS)
@pytest.mark.parametrize("responses", [[0, 1, 2, 3, 4, 5, 6, 7], [5], []])
def test_packs_divide_as_the_layout_needs(batch: Experience, responses: list[int], cp: int, tp: int) -> None:
    for rank in range(cp):
        part = build(batch, responses, cp=cp, cp_rank=rank, tp=tp)
        borders = part.packed.borders
        assert part.input_ids.shape == part.position_ids.shape == (1, borders[-1] // cp)
        assert part.input_ids.shape[1] > 0, "a pack is never empty"
        assert part.input_ids.shape[1] % tp == 0
        assert all(border % (2 * cp if cp > 1 else 1) == 0 for border in borders)
        assert part.packed.cu_seqlens_q.tolist() == part.packed.cu_seqlens_kv.tolist() == list(borders)
        assert part.packed.cu_seqlens_q.dtype == torch.int32
        longest = max(b - a for a, b in itertools.pairwise(borders))
        assert part.packed.max_seqlen_q == part.packed.max_seqlen_kv == longest
        assert [x.dtype for x in (part.row, part.target, part.place)] == [torch.int64] * 3


@pytest.mark.parametrize(("cp", "tp"), LAYOUTS)
@pytest.mark.parametrize("responses", [[0, 1, 2, 3, 4, 5, 6, 7], [5], []])
@pytest.mark.parametrize("at_least", [0, 1, 48, 160])
def test_the_length_of_a_pack_is_known_before_it_is_built(
    batch: Experience, responses: list[int], cp: int, tp: int, at_least: int
) -> None:
    multiple = pack_multiple(cp=cp, tp=tp)
    expected = padded_length(sequence_lengths(batch), responses, cp=cp, multiple=multiple)
    part = build(batch, responses, cp=cp, cp_rank=cp - 1, tp=tp, at_least=at_least)
    assert part.packed.borders[-1] == max(expected, -(-at_least // multiple) * multiple)
    plain = build(batch, responses, cp=cp, cp_rank=cp - 1, tp=tp)
    for name in ("row", "target", "place"):
        assert torch.equal(getattr(part, name), getattr(plain, name)), "longer padding teaches nothing"


def test_context_ranks_share_the_work_of_causal_attention(batch: Experience) -> None:
    """Zig-zag order: the sum of positions, which is the work, is the same on every rank."""
    parts = [build(batch, list(range(8)), cp=4, cp_rank=rank, tp=1) for rank in range(4)]
    assert len({int(part.position_ids.sum()) for part in parts}) == 1


# ---------------------------------------------------------------- budgets


def test_a_sequence_is_its_prompt_and_response_but_the_last_token(batch: Experience) -> None:
    assert sequence_lengths(batch) == [len(whole_sequence(batch, s)) - 1 for s in range(8)]


@pytest.mark.parametrize("budget", [18, 20, 37, 1000])
def test_packs_keep_the_budget_and_hold_every_response_once(batch: Experience, budget: int) -> None:
    lengths = sequence_lengths(batch)
    packs = split_microbatches(list(range(8)), lengths, budget)
    assert sorted(response for pack in packs for response in pack) == list(range(8))
    totals = [sum(lengths[r] for r in pack) for pack in packs]
    assert all(total <= budget for total in totals)
    assert all(a + b > budget for n, a in enumerate(totals) for b in totals[:n]), "no two packs could be one"
    assert all(pack == sorted(pack) for pack in packs)


def test_only_the_responses_asked_for_are_packed(batch: Experience) -> None:
    packs = split_microbatches([1, 4, 6], sequence_lengths(batch), 1000)
    assert packs == [[1, 4, 6]]
    assert split_microbatches([], sequence_lengths(batch), 1000) == []


def test_the_order_of_the_responses_does_not_matter(batch: Experience) -> None:
    lengths = sequence_lengths(batch)
    assert split_microbatches([7, 2, 0, 5, 6], lengths, 25) == split_microbatches(
        [0, 2, 5, 6, 7], lengths, 25
    )


def test_a_sequence_over_the_budget_is_refused_with_the_budget_it_needs(batch: Experience) -> None:
    with pytest.raises(ConfigError, match=r"18 tokens exceeds .*microbatch_tokens=17; set .* to 18"):
        split_microbatches(list(range(8)), sequence_lengths(batch), 17)
