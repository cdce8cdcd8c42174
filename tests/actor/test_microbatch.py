"""From packed responses to model inputs: each response token is predicted once, and in its place."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from support.builders import group, scored

from megaent.actor.microbatch import (
    Microbatch,
    PackRules,
    WorkOfPacks,
    build_microbatch,
    first_fit,
    pack_length,
    split_microbatches,
)
from megaent.errors import ConfigError
from megaent.experience.balance import imbalance
from megaent.experience.work import Work
from megaent.types import Experience

pytestmark = pytest.mark.full

WORK = Work(per_token=100, per_prediction=10, per_pair=1)


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
    rules = PackRules.of(1000, cp=cp, tp=tp, shares_prompts=False)
    return build_microbatch(batch, responses, rules, cp_rank=cp_rank, at_least=at_least)


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
    rules = PackRules.of(1000, cp=cp, tp=tp, shares_prompts=False)
    expected = pack_length(batch, responses, rules)
    part = build(batch, responses, cp=cp, cp_rank=cp - 1, tp=tp, at_least=at_least)
    assert part.packed.borders[-1] == max(expected, -(-at_least // rules.multiple) * rules.multiple)
    plain = build(batch, responses, cp=cp, cp_rank=cp - 1, tp=tp)
    for name in ("row", "target", "place"):
        assert torch.equal(getattr(part, name), getattr(plain, name)), "longer padding teaches nothing"


def test_context_ranks_share_the_work_of_causal_attention(batch: Experience) -> None:
    """Zig-zag order: the sum of positions, which is the work, is the same on every rank."""
    parts = [build(batch, list(range(8)), cp=4, cp_rank=rank, tp=1) for rank in range(4)]
    assert len({int(part.position_ids.sum()) for part in parts}) == 1


# ---------------------------------------------------------------- shared prompts


SHARED = PackRules(1000, shares_prompts=True)


def what_rows_read(part: Microbatch) -> list[tuple[list[int], list[int]]]:
    """Of every row the tokens and positions it may attend to, oldest first, read off borders and tails."""
    tokens, positions = part.input_ids[0].tolist(), part.position_ids[0].tolist()
    read = []
    for row in part.row.tolist():
        start = max(border for border in part.packed.borders if border <= row)
        prompts = [range(t.prompt, t.start) for t in part.packed.tails if t.start <= row < t.stop]
        places = [*itertools.chain.from_iterable(prompts), *range(start, row + 1)]
        read.append(([tokens[p] for p in places], [positions[p] for p in places]))
    return read


@pytest.mark.parametrize("responses", [[0, 1, 2, 3, 4, 5, 6, 7], [2, 4], [0, 2, 3], [5, 6], [5], []])
def test_behind_a_shared_prompt_every_token_reads_what_it_would_alone(
    batch: Experience, responses: list[int]
) -> None:
    part = build_microbatch(batch, responses, SHARED)
    assert sorted(part.place.tolist()) == [
        t for t in range(batch.num_tokens) if int(batch.owner[t]) in responses
    ]
    assert torch.equal(part.target, batch.token[part.place])
    for (tokens, positions), place in zip(what_rows_read(part), part.place.tolist(), strict=True):
        sequence = whole_sequence(batch, int(batch.owner[place]))
        prompt_length = len(sequence) - int(batch.length[batch.owner[place]])
        read = prompt_length + int(batch.position[place])
        assert tokens == sequence[:read]
        assert positions == list(range(read))


def test_a_prompt_is_read_once_for_all_its_responses(batch: Experience) -> None:
    part = build_microbatch(batch, list(range(8)), SHARED)
    prompts = sum(len(prompt.tokens) for prompt in batch.prompts)
    assert part.packed.borders[-1] == prompts + sum(length - 1 for length in batch.length.tolist() if length)


@pytest.mark.parametrize("budget", [18, 20, 37, 1000])
@pytest.mark.parametrize("multiple", [1, 4])
def test_shared_packs_keep_the_budget_and_their_length_is_known(
    batch: Experience, budget: int, multiple: int
) -> None:
    rules = PackRules(budget, multiple=multiple, shares_prompts=True)
    packs = split_microbatches(batch, list(range(8)), rules, WORK)
    assert sorted(response for pack in packs for response in pack) == [0, 1, 2, 3, 4, 6, 7]
    for pack in packs:
        part = build_microbatch(batch, pack, rules)
        assert part.packed.borders[-1] == pack_length(batch, pack, rules)
        assert pack_length(batch, pack, PackRules(budget, shares_prompts=True)) <= budget
        assert pack == sorted(pack)


def test_responses_stay_with_their_prompt(batch: Experience) -> None:
    rules = PackRules(19, shares_prompts=True)
    assert split_microbatches(batch, list(range(8)), rules, WORK) == [[6, 7], [0, 1, 2], [3, 4]]


# ---------------------------------------------------------------- budgets


@pytest.mark.parametrize("budget", [18, 20, 37, 1000])
def test_packs_keep_the_budget_and_hold_every_token_once(batch: Experience, budget: int) -> None:
    packs = split_microbatches(batch, list(range(8)), PackRules(budget), WORK)
    assert sorted(response for pack in packs for response in pack) == [0, 1, 2, 3, 4, 6, 7]
    totals = [sum(len(whole_sequence(batch, r)) - 1 for r in pack) for pack in packs]
    assert all(total <= budget for total in totals)
    assert all(a + b > budget for n, a in enumerate(totals) for b in totals[:n]), "no two packs could be one"
    assert all(pack == sorted(pack) for pack in packs)


def test_only_the_responses_asked_for_are_packed(batch: Experience) -> None:
    assert split_microbatches(batch, [1, 4, 6], PackRules(1000), WORK) == [[1, 4, 6]]
    assert split_microbatches(batch, [], PackRules(1000), WORK) == []


@pytest.mark.parametrize("shares_prompts", [False, True])
def test_the_order_of_the_responses_does_not_matter(batch: Experience, shares_prompts: bool) -> None:
    rules = PackRules(25, shares_prompts=shares_prompts)
    found = split_microbatches(batch, [7, 2, 0, 5, 6], rules, WORK)
    assert found == split_microbatches(batch, [0, 2, 5, 6, 7], rules, WORK)


def test_a_sequence_over_the_budget_is_refused_with_the_budget_it_needs(batch: Experience) -> None:
    with pytest.raises(ConfigError, match=r"18 tokens exceeds .*microbatch_tokens=17; set .* to 18"):
        split_microbatches(batch, list(range(8)), PackRules(17), WORK)


# ---------------------------------------------------------------- work


@pytest.mark.parametrize("shares_prompts", [False, True])
def test_the_work_of_a_pack_is_what_its_attention_and_its_rows_count(
    batch: Experience, shares_prompts: bool
) -> None:
    """Counted from the built pack: tokens by position, rows by target, pairs by who may see whom."""
    rules = PackRules(1000, shares_prompts=shares_prompts)
    for responses in ([0, 1, 2, 3, 4, 5, 6, 7], [1, 4, 6], [5], []):
        built = build_microbatch(batch, responses, rules)
        position = built.position_ids[0].tolist() if any(batch.length[r] > 0 for r in responses) else []
        pairs = sum(place + 1 for place in position)  # a token sees as many as stand before it, and itself
        expected = 100 * len(position) + 10 * built.row.numel() + pairs
        work = Work(per_token=100, per_prediction=10, per_pair=1, shares_prompts=shares_prompts)
        assert WorkOfPacks(batch, work)(responses) == expected


def skewed(*, count: int, seed: int) -> Experience:
    """Lengths as a reasoning model's: most are short, some are cut at the limit."""
    noise = torch.Generator().manual_seed(seed)
    lengths = (40 * torch.randn(count, 4, generator=noise).exp()).clamp(1, 400).long().tolist()
    return scored([group(i, [1, 0, 1, 0], row, prompt_length=5 + i) for i, row in enumerate(lengths)])


@pytest.mark.parametrize("shares_prompts", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_packs_are_as_few_asfirst_fit_s_and_their_work_is_more_equal(seed: int, shares_prompts: bool) -> None:
    batch = skewed(count=16, seed=seed)
    rules = PackRules(2100, shares_prompts=shares_prompts)
    work = Work(per_token=400, per_prediction=0, per_pair=1, shares_prompts=shares_prompts)
    cost = WorkOfPacks(batch, work)
    everyone = list(range(batch.num_responses))
    naive = first_fit(batch, everyone, rules)
    packs = split_microbatches(batch, everyone, rules, work)
    assert len(packs) == len(naive) > 1
    assert sorted(r for pack in packs for r in pack) == everyone
    assert all(pack_length(batch, pack, rules) <= rules.budget for pack in packs)
    assert max(map(cost, packs)) < max(map(cost, naive))
    assert imbalance([[cost(pack) for pack in packs]]) < imbalance([[cost(pack) for pack in naive]])
