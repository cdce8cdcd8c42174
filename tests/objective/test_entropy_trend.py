"""ETR against its closed form, and the cutting of responses into steps."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch
from support.golden_inputs import experience, seen

from megaent.methods.etr import etr
from megaent.objective.entropy_trend import EntropyTrend, entropy_trend, step_entropies, top_entropy
from megaent.objective.method import ReasoningSteps


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.9, 0.99])
def test_the_recursion_is_the_closed_form(seed: int, gamma: float) -> None:
    rng = random.Random(seed)
    steps = [rng.random() for _ in range(rng.randint(2, 60))]
    last = len(steps)
    expected = sum(
        (1 - gamma ** (last - t + 1)) / (1 - gamma) * (steps[t - 2] - steps[t - 1])
        for t in range(2, last + 1)
    )
    assert entropy_trend(steps, gamma=gamma) == pytest.approx(expected, abs=1e-12)


def test_flat_traces_and_single_steps_have_no_trend() -> None:
    for weights in ({}, {"fall_weight": 0.4, "rise_weight": 0.8}):
        assert entropy_trend([0.3] * 50, gamma=0.9, **weights) == 0.0
        assert entropy_trend([0.3], gamma=0.9, **weights) == 0.0
        assert entropy_trend([], gamma=0.9, **weights) == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_falling_traces_gain_and_turning_them_round_turns_the_sign(seed: int) -> None:
    rng = random.Random(seed)
    falling = sorted((rng.random() for _ in range(12)), reverse=True)
    assert entropy_trend(falling, gamma=0.9) > 0 > entropy_trend(falling[::-1], gamma=0.9)
    assert entropy_trend(falling, gamma=0.0) == pytest.approx(-entropy_trend(falling[::-1], gamma=0.0))
    negated = [-value for value in falling]
    assert entropy_trend(negated, gamma=0.9) == pytest.approx(-entropy_trend(falling, gamma=0.9))


def test_a_wavering_trace_pays_for_its_length_in_the_released_form_alone() -> None:
    for number, low, high in ((200, -0.2, -0.1), (400, -2.1, -1.9)):
        trace = [0.5 + (0.05 if step % 2 else -0.05) for step in range(number)]
        released = 1 + 0.005 * entropy_trend(trace, gamma=0.99, fall_weight=0.4, rise_weight=0.8)
        assert low < released < high
        assert 1 + 0.005 * entropy_trend(trace, gamma=0.9) == pytest.approx(1.0, abs=0.003)


@pytest.mark.parametrize("seed", range(20))
def test_steps_end_with_the_tokens_that_close_them(seed: int) -> None:
    rng = random.Random(seed)
    number = rng.randint(0, 30)
    entropy = [rng.random() for _ in range(number)]
    closes = [rng.random() < 0.3 for _ in range(number)]
    parts: list[list[float]] = [[]]
    for value, is_end in zip(entropy, closes, strict=True):
        parts[-1].append(value)
        if is_end:
            parts.append([])
    tail = parts.pop()
    arrays = torch.tensor(entropy, dtype=torch.float64), torch.tensor(closes, dtype=torch.bool)
    means = [sum(part) / len(part) for part in parts]
    assert step_entropies(*arrays, keep_tail=False) == pytest.approx(means, abs=1e-12)
    kept = [*means, sum(tail) / len(tail)] if tail else means
    assert step_entropies(*arrays, keep_tail=True) == pytest.approx(kept, abs=1e-12)


def test_five_equal_tops_have_entropy_1_and_a_certain_one_0() -> None:
    equal = [math.log(0.2)] * 5
    certain = [0.0] + [-math.inf] * 4
    wide = [math.log(0.2)] * 5 + [-0.1]  # a sixth entry does not count
    rows = torch.tensor([equal, certain], dtype=torch.float64)
    assert top_entropy(rows).tolist() == pytest.approx([1.0, 0.0], abs=1e-12)
    assert top_entropy(torch.tensor([wide], dtype=torch.float64)).item() == pytest.approx(1.0, abs=1e-12)
    with pytest.raises(ValueError, match=r"\[T, 5\] or wider, got \[2, 3\]"):
        top_entropy(rows[:, :3])


def make_batch(**changes):
    """Step entropies .4 .2 | .3 .1 .5(tail) | no break; right, wrong, right."""
    closes = [True, True, True, True, False, False]
    batch = experience(
        [2, 3, 1], [1, 0, 1], entropy=[0.4, 0.2, 0.3, 0.1, 0.5, 0.7], closes_step=torch.tensor(closes)
    )
    return replace(batch, **changes)


def test_correct_responses_earn_the_trend_and_wrong_ones_do_not() -> None:
    batch = make_batch()
    whole = seen(batch)
    piece = EntropyTrend(coef=0.5, gamma=0.9)
    assert piece.steps(whole) == [pytest.approx([0.4, 0.2]), pytest.approx([0.3, 0.1, 0.5]), [0.7]]
    assert piece(batch.reward, whole).tolist() == pytest.approx([1.1, -1.0, 1.0])
    told = whole.notes.reduce(whole.population)
    assert told["etr/steps"] == pytest.approx(2.0)
    # The wrong response: S_2 = 0.2, S_3 = 0.18 - 0.4.
    assert told["etr/r_ent"] == pytest.approx((0.2 + (0.2 - 0.22)) / 3)


def test_the_released_form_drops_the_tail_and_pays_0_without_a_step() -> None:
    (reward,) = etr(form="released", entropy="full", closer="sampled", lam=1.0).rewards
    batch = make_batch()
    assert reward(batch.reward, seen(batch)).tolist() == pytest.approx([1.08, -1.0, 0.0])


def test_steps_after_the_thinking_part_do_not_count() -> None:
    thinking = torch.tensor([True, True, True, False, False, False])
    batch = make_batch(in_thinking=thinking)
    assert EntropyTrend().steps(seen(batch)) == [pytest.approx([0.4, 0.2]), pytest.approx([0.3]), []]
    # The third response ended its thinking with its first token: no step, as if it had been empty.
    assert EntropyTrend(coef=0.5)(batch.reward, seen(batch)).tolist() == pytest.approx([1.1, -1.0, 1.0])
    paid = EntropyTrend(coef=0.5, no_step_reward=0.0)(batch.reward, seen(batch)).tolist()
    assert paid == pytest.approx([1.1, -1.0, 0.0])


def test_the_bonus_can_be_bounded() -> None:
    trend_S = torch.tensor([-500.0, 500.0, 10.0, -500.0], dtype=torch.float64)
    correct_S = torch.tensor([True, True, True, False])
    assert EntropyTrend(limit=1.0).rewards(trend_S, correct_S).tolist() == pytest.approx([0.0, 2.0, 1.05, -1])
    assert EntropyTrend().rewards(trend_S, correct_S).tolist() == pytest.approx([-1.5, 3.5, 1.05, -1])


def test_the_form_decides_what_is_asked_of_the_engine() -> None:
    assert (etr().top_log_probs, etr().steps) == (0, ReasoningSteps())
    part = etr(form="released", boundary="\n\n", thinking_end="</think>")
    assert part.steps == ReasoningSteps(boundary="\n\n", thinking_end="</think>")
    assert etr(form="released").top_log_probs == 5
    assert etr(closer="top").top_log_probs == 1


def test_what_is_missing_is_named() -> None:
    batch = make_batch(closes_step=None)
    with pytest.raises(ValueError, match=r"batch\.closes_step; set Part\.steps"):
        EntropyTrend()(batch.reward, seen(batch))
    with pytest.raises(ValueError, match=r"batch\.top_closes_step"):
        EntropyTrend(closed_by_top=True)(batch.reward, seen(batch))
    with pytest.raises(ValueError, match=r"batch\.top_log_prob; ask the engine for 5"):
        EntropyTrend(entropy="top5")(make_batch().reward, seen(make_batch()))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"form": "code"}, "form must be one of paper, released"),
        ({"entropy": "top3"}, "entropy must be one of full, top5"),
        ({"tail": "cut"}, "tail must be one of keep, drop"),
        ({"closer": "both"}, "closer must be one of sampled, top"),
        ({"gamma": 1.5}, "gamma must lie in"),
        ({"clip_r_ent": -1.0}, "clip_r_ent must be 0 or more"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        etr(**options)
