"""LESS against searches that compare every pair: the clean form, and the published one with its quirks."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
import torch
from support.builders import group, on_replicas, scored
from support.golden_inputs import experience, rows_of, seen

from megaent.methods.less import less
from megaent.objective.segment_shaping import HIGH, SHARED, SegmentSupport
from megaent.objective.segments import linked_patterns, segments
from megaent.ops.segment_support import segment_support

Run = tuple[int, int]


@dataclass
class Row:
    """One response of a made-up group."""

    correct: bool
    tokens: list[int]
    entropy: list[float]
    runs: list[Run] = field(default_factory=list)


def random_rows(rng: random.Random, min_length: int, quantile: float) -> list[Row]:
    """Noisy copies of one text, so that segments recur, nest and overlap."""
    vocab = rng.choice([2, 3, 8])
    text = [rng.randrange(vocab) for _ in range(40)]
    levels = [rng.choice([0.1, 0.2, 0.3, 0.9]) for _ in text]
    rows = []
    for _ in range(rng.randint(1, 6)):
        length = rng.randint(1, 40)
        tokens = [t if rng.random() < 0.93 else rng.randrange(vocab) for t in text[:length]]
        entropy = [h if rng.random() < 0.8 else rng.choice([0.05, 0.5, 1.0]) for h in levels[:length]]
        row = Row(rng.random() < 0.5, tokens, entropy)
        row.runs = low_runs(row, min_length, quantile)
        rows.append(row)
    return rows


def threshold(row: Row, quantile: float) -> float:
    return sorted(row.entropy)[min(round(len(row.entropy) * quantile), len(row.entropy) - 1)]


def low_runs(row: Row, min_length: int, quantile: float) -> list[Run]:
    runs, start = [], None
    for place, value in enumerate([*row.entropy, float("inf")]):
        if value < threshold(row, quantile):
            start = place if start is None else start
        elif start is not None:
            runs += [(start, place)] if place - start >= min_length else []
            start = None
    return runs


def places(part: list[int], whole: list[int]) -> list[int]:
    return [i for i in range(len(whole) - len(part) + 1) if whole[i : i + len(part)] == part]


def start_weights(rows: list[Row], quantile: float) -> list[list[float]]:
    kin = [sum(other.correct == row.correct for other in rows) for row in rows]
    return [
        [1 / n if value <= threshold(row, quantile) else 1.0 for value in row.entropy]
        for row, n in zip(rows, kin, strict=True)
    ]


def clean_by_pairs(rows: list[Row], quantile: float) -> list[list[float]]:
    """Every pattern looked up in every segment."""
    weights = start_weights(rows, quantile)
    texts = {tuple(row.tokens[a:b]) for row in rows for a, b in row.runs}
    zeros = set()
    for text in map(list, texts):
        found = [
            (number, start + at)
            for number, row in enumerate(rows)
            for start, stop in row.runs
            for at in places(text, row.tokens[start:stop])
        ]
        owners = {number for number, _ in found}
        if len(owners) < 2:
            continue
        kinds = {rows[number].correct for number in owners}
        for number, at in found:
            same = [row for row in rows if row.correct == rows[number].correct]
            for token in range(at, at + len(text)):
                if len(kinds) == 2:
                    zeros.add((number, token))
                else:
                    weights[number][token] = max(weights[number][token], len(owners) / len(same))
    for number, token in zeros:
        weights[number][token] = 0.0
    return weights


def published_by_pairs(rows: list[Row]) -> list[tuple[list[int], dict[int, int]]]:
    """(pattern, {response: place}) in the order they end up in, by the published search step by step."""
    order = [n for n, row in enumerate(rows) if row.correct] + [
        n for n, row in enumerate(rows) if not row.correct
    ]
    everything = [(n, a, rows[n].tokens[a:b]) for n in order for a, b in rows[n].runs]
    linked: list[tuple[list[int], dict[int, int]]] = []
    for number, start, text in everything:
        holders = [(n, a, t) for n, a, t in everything if n != number and places(text, t)]
        if not holders:
            continue
        holder, held_start, held_text = holders[0]
        for slot, (pattern, at) in enumerate(linked):
            if places(pattern, text):
                at[number] = start + places(pattern, text)[0]
                at[holder] = held_start + places(pattern, held_text)[0]
                break
            if places(text, pattern):
                moved = {n: place + places(text, pattern)[0] for n, place in at.items()}
                moved |= {number: start, holder: held_start + places(text, held_text)[0]}
                del linked[slot]
                later = next((i for i, (other, _) in enumerate(linked) if other == text), None)
                if later is None:
                    linked.append((text, moved))
                else:
                    linked[later] = (text, moved)
                break
        else:
            linked.append((text, {number: start, holder: held_start + places(text, held_text)[0]}))
    return linked


def published_weights(rows: list[Row], quantile: float) -> list[list[float]]:
    weights = start_weights(rows, quantile)
    for text, at in published_by_pairs(rows):
        kinds = {rows[number].correct for number in at}
        for number, start in at.items():
            same = sum(row.correct == rows[number].correct for row in rows)
            for token in range(start, start + len(text)):
                raised = max(weights[number][token], len(at) / same)
                weights[number][token] = 0.0 if len(kinds) == 2 else raised
    return weights


def batch_of(rows: list[Row]):
    return experience(
        [len(row.tokens) for row in rows],
        [float(row.correct) for row in rows],
        token=[token for row in rows for token in row.tokens],
        entropy=[value for row in rows for value in row.entropy],
    )


def weights_of(rows: list[Row], **options) -> list[list[float]]:
    batch = batch_of(rows)
    weight_T, _ = SegmentSupport(**options).multipliers(seen(batch))
    return rows_of(weight_T, [len(row.tokens) for row in rows])


@pytest.mark.parametrize("seed", range(10))
def test_the_clean_form_is_a_comparison_of_all_pairs(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(100):
        min_length, quantile = rng.choice([1, 2, 3, 5]), rng.choice([0.5, 0.8, 0.9])
        rows = random_rows(rng, min_length, quantile)
        found = weights_of(rows, min_length=min_length, quantile=quantile)
        for mine, expected in zip(found, clean_by_pairs(rows, quantile), strict=True):
            assert mine == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_the_released_form_is_the_published_search(seed: int) -> None:
    rng = random.Random(100 + seed)
    for _ in range(100):
        min_length, quantile = rng.choice([1, 2, 3, 5]), rng.choice([0.5, 0.8, 0.9])
        rows = random_rows(rng, min_length, quantile)
        found = linked_patterns(
            [row.tokens for row in rows], [row.runs for row in rows], [row.correct for row in rows]
        )
        assert [(list(pattern), at) for pattern, at in found.items()] == published_by_pairs(rows)
        weights = weights_of(rows, mode="released", min_length=min_length, quantile=quantile)
        for mine, expected in zip(weights, published_weights(rows, quantile), strict=True):
            assert mine == pytest.approx(expected, abs=1e-12)


def test_the_clean_form_does_not_depend_on_the_order_of_the_responses() -> None:
    rng = random.Random(7)
    for _ in range(60):
        rows = random_rows(rng, 2, 0.8)
        order = rng.sample(range(len(rows)), len(rows))
        found = weights_of(rows, min_length=2)
        assert weights_of([rows[i] for i in order], min_length=2) == [found[i] for i in order]


def test_swapping_right_and_wrong_swaps_the_classes() -> None:
    rng = random.Random(8)
    for _ in range(40):
        rows = random_rows(rng, 2, 0.8)
        swapped = [Row(not row.correct, row.tokens, row.entropy) for row in rows]
        assert weights_of(swapped, min_length=2) == weights_of(rows, min_length=2)
        shares = [shares_of(case) for case in (rows, swapped)]
        assert shares[0]["less/correct_only"] == shares[1]["less/incorrect_only"]
        assert shares[0]["less/shared"] == shares[1]["less/shared"]


def shares_of(rows: list[Row]) -> dict[str, float]:
    batch = batch_of(rows)
    whole = seen(batch)
    SegmentSupport(min_length=2)(torch.ones(batch.num_tokens, dtype=torch.float64), whole)
    return whole.notes.reduce(whole.population)


@pytest.mark.parametrize("mode", ["clean", "released"])
def test_weights_lie_between_0_and_1_and_high_entropy_keeps_1(mode: str) -> None:
    rng = random.Random(9)
    for _ in range(100):
        rows = random_rows(rng, 2, 0.8)
        weight_T, kind_T = SegmentSupport(mode=mode, min_length=2).multipliers(seen(batch_of(rows)))
        assert bool(((weight_T >= 0) & (weight_T <= 1)).all())
        assert bool((weight_T[kind_T == HIGH] == 1).all())
        if mode == "clean":
            assert bool((weight_T[kind_T == SHARED] == 0).all())


def test_long_segments_are_compared_whole() -> None:
    """One token apart in the middle, at every length around the powers of two."""
    for length in range(1, 70):
        text = list(range(length))
        other = [*text[: length // 2], -5, *text[length // 2 + 1 :]]
        token_L = torch.tensor([*text, 999, *text, 999, *other])
        low_L = token_L != 999
        owner_L = torch.arange(3).repeat_interleave(length + 1)[: token_L.numel()]
        found = segments(low_L, owner_L, 1)
        support = segment_support(token_L, found, torch.tensor([True, True, False]))
        assert support.same.tolist() == [2] * length + [0] + [2] * length + [0] * (length + 1)
        assert not bool(support.is_shared.any())


def test_a_segment_ends_with_its_response_and_at_tokens_not_trained_on() -> None:
    rows = [Row(True, [1, 2, 3, 4], [0.1, 0.1, 0.1, 0.9]), Row(True, [1, 2, 3, 4], [0.1, 0.1, 0.1, 0.9])]
    batch = batch_of(rows)
    (found,) = SegmentSupport(min_length=1).groups(seen(batch))
    assert [column.tolist() for column in found.found] == [[0, 4], [3, 7], [0, 1]]
    batch.mask[1] = False
    (found,) = SegmentSupport(min_length=1).groups(seen(batch))
    assert [column.tolist() for column in found.found] == [[0, 2, 4], [1, 3, 7], [0, 0, 1]]


def test_each_group_is_searched_on_its_own_wherever_it_is_held() -> None:
    groups = [group(i, [1.0, 0.0, 1.0], [7, 8, 6]) for i in range(3)]
    piece = SegmentSupport(min_length=1, quantile=0.9)

    def by_place(batch, population) -> dict[tuple[int, int], float]:
        batch.token.remainder_(3)
        shaped_T = piece(torch.ones(batch.num_tokens), seen(batch, population=population))
        place = zip(batch.index[batch.group][batch.owner].tolist(), batch.position.tolist(), strict=True)
        number = batch.owner % 3
        return dict(zip(zip(place, number.tolist(), strict=True), shaped_T.tolist(), strict=True))

    whole = scored(groups)
    expected = by_place(whole, seen(whole).population)
    shares = on_replicas(by_place, [scored(groups[i : i + 1]) for i in range(4)])
    assert {place: weight for share in shares for place, weight in share.items()} == expected
    assert len(set(expected.values())) > 2


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mode": "official"}, "mode must be one of clean, released"),
        ({"quantile": 80}, "quantile must lie in"),
        ({"min_length": 0}, "min_length must be 1 token or more"),
        ({"base_weight": 2.0}, "base_weight must lie in"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        less(**options)
