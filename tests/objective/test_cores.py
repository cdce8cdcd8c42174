"""The policy term of a token: values against worked cases, gradients against the formula's derivative."""

from __future__ import annotations

import math

import pytest
import torch
from support.builders import group, scored, seen, view
from support.views import changed
from torch import Tensor

from megaent.objective.cores import Clipped, ClippedWeight, Reinforce, SequenceClipped, Unclipped, clipped
from megaent.objective.method import Core
from megaent.objective.seen import batch_tokens
from megaent.types import PolicyView

LOG_RATIO = [
    0.4054651081081644,
    -0.6931471805599453,
    0.09531017980432493,
    1.3862943611198906,
]  # 1.5 0.5 1.1 4
ADVANTAGE = [1.0, -1.0, 1.0, -1.0]
CORES = [Clipped(), Clipped(low=0.1, high=0.3, dual=None), Unclipped(), Reinforce(), SequenceClipped(),
         ClippedWeight()]  # fmt: skip
every_core = pytest.mark.parametrize("core", CORES, ids=repr)


def view_of(log_ratio: list[float], advantage: list[float], owner: list[int] | None = None) -> PolicyView:
    ratio = torch.tensor(log_ratio, dtype=torch.float64)
    old = torch.full_like(ratio, -1.5)
    made = changed(
        view(len(log_ratio)),
        log_prob=(old + ratio).requires_grad_(),
        log_prob_old=old,
        advantage=torch.tensor(advantage, dtype=torch.float64),
    )
    if owner is None:
        return made
    return changed(made, owner=torch.tensor(owner), num_responses=max(owner) + 1)


def bounded(core: Core, batch: PolicyView) -> PolicyView:
    """With the bounds that ``estimate`` would have taken from the core."""
    low, high = core.bounds(batch_tokens(seen(scored([])), torch.zeros(0)))
    assert low.shape == high.shape == (0,)
    like = batch.terms.advantage
    bounds = (getattr(core, "low", 1.0), getattr(core, "high", torch.inf))
    return changed(
        batch, clip_low=torch.full_like(like, bounds[0]), clip_high=torch.full_like(like, bounds[1])
    )


def loss_and_gradient(core: Core, batch: PolicyView) -> tuple[Tensor, Tensor]:
    batch = bounded(core, batch)
    loss_N, _ = core(batch)
    (grad_N,) = torch.autograd.grad(loss_N.sum(), batch.log_prob)
    return loss_N.detach(), grad_N


# ---------------------------------------------------------------- the clip


def test_worked_cases_of_the_clip() -> None:
    loss, grad = loss_and_gradient(Clipped(), view_of(LOG_RATIO, ADVANTAGE))
    assert loss.tolist() == pytest.approx([-1.2, 0.8, -1.1, 3.0], abs=1e-9)
    assert grad.tolist() == pytest.approx([0.0, 0.0, -1.1, 0.0], abs=1e-9), "clipped tokens teach nothing"
    higher = Clipped(low=0.2, high=0.28, dual=None)
    loss, grad = loss_and_gradient(higher, view_of(LOG_RATIO, ADVANTAGE))
    assert loss.tolist() == pytest.approx([-1.28, 0.8, -1.1, 4.0], abs=1e-9)
    assert grad.tolist() == pytest.approx([0.0, 0.0, -1.1, 4.0], abs=1e-9)


def test_the_clip_is_the_formula_on_random_tokens() -> None:
    batch = view(500, spread=1.0)
    loss, grad = loss_and_gradient(Clipped(low=0.1, high=0.3, dual=2.0), batch)
    held = 0
    for n in range(500):
        a, r = float(batch.terms.advantage[n]), float(batch.log_ratio[n].detach().exp())
        within = min(max(r, 0.9), 1.3)
        expected, slope = (-a * r, -a * r) if -a * r >= -a * within else (-a * within, 0.0)
        if a < 0 and expected > -a * 2.0:
            expected, slope = -a * 2.0, 0.0
        held += slope == 0.0
        assert float(loss[n]) == pytest.approx(expected, rel=1e-12)
        assert float(grad[n]) == pytest.approx(slope, rel=1e-12)
    assert 100 < held < 400, "both kinds were tried"


def test_bounds_may_differ_by_token() -> None:
    batch = view_of([0.4, 0.4, -0.4, -0.4], [1.0, 1.0, -1.0, -1.0])
    bound = torch.tensor([0.2, 0.6, 0.2, 0.6], dtype=torch.float64)
    loss, _ = Clipped()(changed(batch, clip_low=bound, clip_high=bound))
    expected = [-1.2, -math.exp(0.4), 0.8, math.exp(-0.4)]
    assert loss.tolist() == pytest.approx(expected, rel=1e-12)


def test_the_shares_of_clipped_tokens_are_reported() -> None:
    _, metrics = Clipped()(view_of(LOG_RATIO, ADVANTAGE))
    assert {name: value.tolist() for name, value in metrics.items()} == {
        "clip/high": [1, 0, 0, 0],
        "clip/low": [0, 1, 0, 0],
        "clip/dual": [0, 0, 0, 1],
    }
    assert not any(value.requires_grad for value in metrics.values())
    assert "clip/dual" not in Clipped(dual=None)(view_of(LOG_RATIO, ADVANTAGE))[1]


def test_the_options_of_the_clip() -> None:
    assert clipped(0.2, 0.28, 0.0) == Clipped(low=0.2, high=0.28, dual=None)
    for options in ((1.0, 0.2, 3.0), (-0.1, 0.2, 3.0), (0.2, -0.1, 3.0), (0.2, 0.2, 0.5)):
        with pytest.raises(ValueError, match="must"):
            clipped(*options)


# ---------------------------------------------------------------- the others


def test_unclipped_and_reinforce() -> None:
    batch = view_of(LOG_RATIO, ADVANTAGE)
    loss, grad = loss_and_gradient(Unclipped(), batch)
    assert loss.tolist() == grad.tolist() == pytest.approx([-1.5, 0.5, -1.1, 4.0], rel=1e-9)
    loss, grad = loss_and_gradient(Reinforce(), batch)
    assert grad.tolist() == [-a for a in ADVANTAGE]
    assert torch.equal(loss, -batch.terms.advantage * batch.log_prob.detach())


def test_the_weight_of_cispo_is_clipped_and_no_token_loses_its_gradient() -> None:
    _, grad = loss_and_gradient(ClippedWeight(), view_of(LOG_RATIO, ADVANTAGE))
    assert grad.tolist() == pytest.approx([-1.5, 0.5, -1.1, 3.0], rel=1e-9)
    _, grad = loss_and_gradient(ClippedWeight(low=0.2, high=0.2), view_of(LOG_RATIO, ADVANTAGE))
    assert grad.tolist() == pytest.approx([-1.2, 0.8, -1.1, 1.2], rel=1e-9)


def test_gspo_clips_a_response_as_one() -> None:
    """Two responses, of log ratios (0.1, -0.06) and (0.3, 0.1, 0.2), whose means are 0.02 and 0.2."""
    batch = view_of([0.1, -0.06, 0.3, 0.1, 0.2], [1.0, 1.0, -2.0, -2.0, -2.0], [0, 0, 1, 1, 1])
    first, second = math.exp(0.02), math.exp(0.2)
    loss, grad = loss_and_gradient(SequenceClipped(low=0.05, high=0.05), batch)
    assert loss.tolist() == pytest.approx([-first] * 2 + [2 * second] * 3, rel=1e-7)
    assert grad.tolist() == pytest.approx([-first] * 2 + [2 * second] * 3, rel=1e-7)
    loss, grad = loss_and_gradient(SequenceClipped(low=0.01, high=0.01), batch)
    assert loss[:2].tolist() == pytest.approx([-1.01] * 2, rel=1e-12)
    assert grad[:2].tolist() == [0.0, 0.0]


def test_the_gradient_of_gspo_is_that_of_its_sequence_form() -> None:
    """The paper's eq. 5: mean over responses of the response's ratio times A, differentiated as it stands."""
    batch = view_of([0.1, -0.06, 0.3, 0.1, 0.2], [1.0, 1.0, -2.0, -2.0, -2.0], [0, 0, 1, 1, 1])
    weight = torch.tensor([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3], dtype=torch.float64)  # the mean of a response
    core = SequenceClipped(low=0.9, high=9.0)
    loss, _ = core(bounded(core, batch))
    (found,) = torch.autograd.grad((weight * loss).sum(), batch.log_prob)
    ratio = torch.stack([batch.log_ratio[:2].mean().exp(), batch.log_ratio[2:].mean().exp()])
    (expected,) = torch.autograd.grad(-(ratio * torch.tensor([1.0, -2.0])).sum(), batch.log_prob)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)


# ---------------------------------------------------------------- all of them


@every_core
def test_the_first_step_has_the_policy_gradient(core: Core) -> None:
    """At ratio 1 the branches of a clip meet; the gradient must be -A and not half of it."""
    advantage = [1.0, -2.0, 0.0, 0.5]
    _, grad = loss_and_gradient(core, view_of([0.0] * 4, advantage))
    assert grad.tolist() == [-a for a in advantage]


@every_core
@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("log_ratio", [-1e4, -50.0, 50.0, 1e4])
def test_absurd_ratios_stay_finite(core: Core, log_ratio: float, advantage: float) -> None:
    loss, grad = loss_and_gradient(core, view_of([log_ratio], [advantage]))
    assert bool(loss.isfinite().all())
    assert bool(grad.isfinite().all())


@every_core
def test_bounds_have_the_tokens_shape_and_dtype(core: Core) -> None:
    batch = scored([group(0, [1, 0], [3, 4])])
    low, high = core.bounds(batch_tokens(seen(batch), torch.zeros(7)))
    assert low.shape == high.shape == (7,)
    assert low.dtype == high.dtype == torch.float32
    assert low.tolist() == pytest.approx([getattr(core, "low", 1.0)] * 7)
    assert high.tolist() == pytest.approx([getattr(core, "high", torch.inf)] * 7)
