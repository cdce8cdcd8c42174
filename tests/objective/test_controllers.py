"""Coefficients with a state: their recursions, their limits, and what reads them."""

from __future__ import annotations

import random

import pytest
import torch
from support.golden_inputs import experience, seen, tokens

from megaent.objective.controllers import AdaptiveEntropy, FromController, SecondTemperature
from megaent.objective.method import Controller


def run(controller: Controller, metric: str, values: list[float]) -> list[dict[str, float]]:
    """The coefficients before each step and after the last."""
    state, given = controller.start(), []
    for value in values:
        given.append(controller.coefs(state))
        state = controller.update(state, {metric: value, "loss": 0.0})
    return [*given, controller.coefs(state)]


def test_the_entropy_coefficient_follows_the_entropy_one_step_behind() -> None:
    controller = AdaptiveEntropy(target=0.2, delta=1e-4, high=2.5e-4)
    found = run(controller, "entropy/sampled", [0.3, 0.15, 0.15, 0.15, 0.25, 0.19, 0.2])
    expected = [0.0, 0.0, 1e-4, 2e-4, 2.5e-4, 0.0, 2.5e-4, 0.0]  # 0 whenever the last step was above
    assert [step["adaptive_entropy"] for step in found] == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("seed", range(3))
def test_the_entropy_coefficient_stays_within_its_limits(seed: int) -> None:
    rng = random.Random(seed)
    controller = AdaptiveEntropy(low=1e-3, high=2e-3, start_coef=1.5e-3, delta=4e-4)
    state = controller.start()
    for _ in range(50):
        below = rng.random() < 0.5
        before, state = state, controller.update(state, {"entropy/sampled": 0.1 if below else 0.3})
        assert 1e-3 <= state["coef"] <= 2e-3
        assert (state["coef"] - before["coef"]) * (1 if below else -1) >= 0
        assert state["is_on"] == below


def test_the_second_temperature_is_hot_at_or_below_the_target() -> None:
    found = run(SecondTemperature(target=0.5), "aepo/entropy", [0.4, 0.6, 0.5])
    assert [step["second_temperature"] for step in found] == [1.2, 1.2, 0.8, 1.2]
    assert [step["num_replaced"] for step in found] == [60, 60, 30, 60]


@pytest.mark.parametrize("controller", [AdaptiveEntropy(), SecondTemperature()], ids=repr)
def test_a_state_is_plain_numbers(controller: Controller) -> None:
    state = controller.update(controller.start(), {"entropy/sampled": 0.1, "aepo/entropy": 0.1})
    assert state.keys() == controller.start().keys()
    assert {type(value) for value in [*state.values(), *controller.coefs(state).values()]} == {float}


def test_a_coefficient_is_read_by_its_name() -> None:
    batch = experience([3])
    coef = FromController(name="adaptive_entropy")
    found = coef(tokens(batch), seen(batch, coefs={"adaptive_entropy": 0.25}))
    assert found.tolist() == [0.25] * 3
    assert found.dtype == torch.float64
    with pytest.raises(ValueError, match=r"Seen.coefs must hold 'adaptive_entropy', got \['other'\]"):
        coef(tokens(batch), seen(batch, coefs={"other": 0.25}))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: AdaptiveEntropy(delta=-1.0), "delta must be 0 or more, got -1.0"),
        (lambda: AdaptiveEntropy(low=1.0), "low must be at most high = 0.005, got 1.0"),
        (lambda: AdaptiveEntropy(start_coef=1.0), r"start_coef must lie in \[0.0, 0.005\], got 1.0"),
        (lambda: SecondTemperature(cold=0.0), "temperature_cold must be above 0, got 0.0"),
        (lambda: SecondTemperature(hot=0.5), "temperature_hot must be at least 0.8, got 0.5"),
        (lambda: SecondTemperature(num_replaced_below=-1), "num_replaced_below must be 0 or more, got -1"),
    ],
)
def test_a_bad_option_is_refused_by_name(make, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
