"""Statistics of an evaluation against enumeration, closed forms and printed tables."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import statistics

import pytest
import torch
from support.builders import group
from torch import Tensor

from megaent.errors import NumericsError
from megaent.evaluation.statistics import (
    PromptOutcome,
    accuracy_interval,
    avg_at_k,
    by_split,
    pass_at_k,
    prompt_outcomes,
    std_at_k,
    summarise,
    worst_at_k,
)
from megaent.experience.pack import pack


def correct(*rows: str) -> Tensor:
    """``correct("110", "000")``: two prompts of three responses."""
    return torch.tensor([[mark == "1" for mark in row] for row in rows])


def outcome(
    marks: str,
    *,
    split: str = "",
    lengths: tuple[int, ...] = (),
    entropy: float = 0.0,
    first_entropy: float = 0.0,
) -> PromptOutcome:
    return PromptOutcome(
        split=split,
        correct=tuple(mark == "1" for mark in marks),
        length=lengths or (1,) * len(marks),
        entropy=entropy,
        first_entropy=first_entropy,
    )


# ---------------------------------------------------------------- of k responses

ROWS = ("1101000", "0000000", "1111111", "0000010")


@pytest.mark.parametrize("k", range(1, 8))
def test_pass_and_worst_are_what_all_subsets_say(k: int) -> None:
    subsets = [[row[place] for place in places] for row in ROWS for places in subsets_of(7, k)]
    some = sum("1" in subset for subset in subsets) / len(subsets)
    every = sum("0" not in subset for subset in subsets) / len(subsets)
    assert pass_at_k(correct(*ROWS), k) == pytest.approx(some, abs=1e-15)
    assert worst_at_k(correct(*ROWS), k) == pytest.approx(every, abs=1e-15)


def subsets_of(size: int, k: int) -> list[tuple[int, ...]]:
    return list(itertools.combinations(range(size), k))


@pytest.mark.parametrize(("k", "p"), [(1, 0.3), (3, 0.3), (3, 0.9), (5, 0.5)])
def test_pass_and_worst_are_unbiased(k: int, p: float) -> None:
    """Their expectation over every outcome of 6 responses is the chance for k, exactly."""
    expected_pass = expected_worst = 0.0
    for marks in itertools.product("01", repeat=6):
        chance = math.prod(p if mark == "1" else 1 - p for mark in marks)
        expected_pass += chance * pass_at_k(correct("".join(marks)), k)
        expected_worst += chance * worst_at_k(correct("".join(marks)), k)
    assert expected_pass == pytest.approx(1 - (1 - p) ** k, abs=1e-12)
    assert expected_worst == pytest.approx(p**k, abs=1e-12)


def test_pass_and_worst_in_closed_form() -> None:
    # Hypergeometric: 3 of 10 correct, 4 drawn; C(7, 4) = 35, C(10, 4) = 210.
    row = correct("1110000000")
    assert pass_at_k(row, 4) == pytest.approx(1 - 35 / 210, abs=1e-15)
    assert worst_at_k(row, 2) == pytest.approx(3 / 45, abs=1e-15)
    assert worst_at_k(row, 4) == 0.0


def test_pass_and_worst_meet_the_average_at_one_response() -> None:
    rows = correct(*ROWS)
    assert avg_at_k(rows) == 11 / 28
    assert pass_at_k(rows, 1) == pytest.approx(11 / 28, abs=1e-15)
    assert worst_at_k(rows, 1) == pytest.approx(11 / 28, abs=1e-15)


def test_many_responses_neither_overflow_nor_cancel() -> None:
    row = torch.zeros(1, 4096, dtype=torch.bool)
    row[0, 5] = True
    assert pass_at_k(row, 1024) == 0.25
    assert worst_at_k(~row, 1024) == 0.75


def test_std_is_the_mean_deviation_within_groups() -> None:
    expected = statistics.fmean(statistics.pstdev(map(float, row)) for row in ROWS)
    assert std_at_k(correct(*ROWS)) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("k", [0, 8])
def test_k_must_not_exceed_the_group(k: int) -> None:
    for estimate in (pass_at_k, worst_at_k):
        with pytest.raises(ValueError, match=rf"k must lie in 1 \.\.\. 7, .* got {k}"):
            estimate(correct(*ROWS), k)


@pytest.mark.parametrize(
    "wrong", [torch.zeros(2, 3), torch.zeros(3, dtype=torch.bool), torch.zeros(0, 3, dtype=torch.bool)]
)
def test_correctness_must_be_a_table_of_bools(wrong: Tensor) -> None:
    with pytest.raises(ValueError, match="must be a bool tensor"):
        avg_at_k(wrong)


# ---------------------------------------------------------------- the interval


def test_the_interval_is_students_over_the_prompts() -> None:
    # Accuracies 0.75, 0.25, 0.5, 0.5: mean 0.5, variance 0.125 / 3, t(0.975, 3) = 3.182446.
    low, high = accuracy_interval(correct("1110", "0001", "1100", "0110"))
    half_width = 3.182446 * math.sqrt(0.125 / 3 / 4)
    assert low == pytest.approx(0.5 - half_width, abs=1e-6)
    assert high == pytest.approx(0.5 + half_width, abs=1e-6)


def test_repeating_every_response_makes_nothing_surer() -> None:
    rows = ("10", "00", "11", "10", "11")
    assert accuracy_interval(correct(*(row * 50 for row in rows))) == pytest.approx(
        accuracy_interval(correct(*rows)), abs=1e-12
    )


def test_the_interval_stays_inside_zero_and_one() -> None:
    assert accuracy_interval(correct("11", "11", "01"))[1] == 1.0
    assert accuracy_interval(correct("00", "00", "01"))[0] == 0.0


@pytest.mark.parametrize("prompts", [1, 10, 256])
@pytest.mark.parametrize("row", ["0000", "1100", "1111"])
def test_equal_prompts_still_leave_doubt(prompts: int, row: str) -> None:
    """Wilson's ends are the p at which the observed mean lies z standard errors away: solve for them."""
    low, high = accuracy_interval(correct(*[row] * prompts))
    mean = row.count("1") / 4
    assert low <= mean <= high
    assert high - low > 0.01
    for end in {low, high} - {0.0, 1.0}:
        z = abs(mean - end) / math.sqrt(end * (1 - end) / prompts)
        assert z == pytest.approx(1.959964, abs=1e-5)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Prompts of differing difficulty: 95 % of intervals hold the true mean, if the prompts are the units."""
    chance = random.Random(0)
    covered = pooled = 0
    for _ in range(400):
        rows = []
        for _ in range(30):
            p = chance.choice((0.1, 0.9))
            rows.append("".join("1" if chance.random() < p else "0" for _ in range(8)))
        low, high = accuracy_interval(correct(*rows))
        covered += low <= 0.5 <= high
        mean = avg_at_k(correct(*rows))
        pooled += abs(mean - 0.5) <= 1.96 * math.sqrt(mean * (1 - mean) / 240)
    # Binomial: 380 of 400 expected, standard deviation 4.4. Pooling the responses would be far too sure.
    assert 366 <= covered <= 394
    assert pooled < 300


# ---------------------------------------------------------------- the summary


def test_a_summary_states_what_its_prompts_hold() -> None:
    prompts = [
        outcome("11100000", lengths=(1, 2, 3, 4, 5, 6, 7, 8), entropy=9.0, first_entropy=3.0),
        outcome("00000000", lengths=(4,) * 8, entropy=8.0, first_entropy=1.0),
    ]
    summary = summarise(prompts)
    assert summary.accuracy == 3 / 16
    assert (summary.accuracy_low, summary.accuracy_high) == accuracy_interval(correct("11100000", "00000000"))
    assert summary.mean_length == (36 + 32) / 16
    assert summary.mean_entropy == 17 / 68
    assert summary.mean_first_entropy == 4 / 16
    assert (summary.pass_at_8, summary.worst_at_8) == (0.5, 0.0)
    assert (summary.num_prompts, summary.group_size) == (2, 8)


def test_eight_are_estimated_from_more_and_never_from_fewer() -> None:
    assert summarise([outcome("1" + "0" * 15)]).pass_at_8 == pytest.approx(0.5, abs=1e-15)
    assert summarise([outcome("0" + "1" * 15)]).worst_at_8 == pytest.approx(0.5, abs=1e-15)
    few = summarise([outcome("1111111")])
    assert (few.pass_at_8, few.worst_at_8) == (None, None)
    assert all(math.isfinite(value) for value in dataclasses.astuple(few) if value is not None)


def test_the_first_entropy_is_a_mean_over_responses_that_began() -> None:
    cut = outcome("000", lengths=(2, 0, 5), first_entropy=3.0)
    assert summarise([cut]).mean_first_entropy == 1.5
    assert summarise([outcome("00", lengths=(0, 0))]).mean_first_entropy == 0.0


def test_a_summary_takes_no_entropy_that_is_not_finite() -> None:
    with pytest.raises(NumericsError, match="must be finite, got nan"):
        summarise([outcome("10", entropy=float("nan"))])


@pytest.mark.parametrize("prompts", [[], [outcome("10"), outcome("100")], [outcome("")]])
def test_a_summary_needs_equally_many_responses(prompts: list[PromptOutcome]) -> None:
    with pytest.raises(ValueError, match="equally many responses"):
        summarise(prompts)


def test_splits_are_apart_and_in_order() -> None:
    prompts = [outcome("10", split="hard"), outcome("11", split="easy"), outcome("00", split="hard")]
    splits = by_split(prompts)
    assert list(splits) == ["easy", "hard"]
    assert splits == {"easy": [prompts[1]], "hard": [prompts[0], prompts[2]]}
    assert summarise(splits["hard"]).accuracy == 0.25


def test_outcomes_are_read_off_a_scored_batch() -> None:
    groups = [group(0, [1.0, 0.0], [3, 1]), group(1, [1.0], [2])]
    batch = dataclasses.replace(
        pack(groups),
        entropy=torch.tensor([0.5, 0.25, 1.0, 2.0, 3.0, 4.0]),
        correct=torch.tensor([True, False, True]),
    )
    first, second = prompt_outcomes(batch)
    assert (first.correct, first.length, first.entropy) == ((True, False), (3, 1), 3.75)
    assert (second.correct, second.length, second.entropy) == ((True,), (2,), 7.0)
    # The first tokens of its two responses are the 1st and the 4th of the batch.
    assert (first.first_entropy, second.first_entropy) == (0.5 + 2.0, 3.0)
