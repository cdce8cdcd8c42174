"""What each token pays: values against worked cases, gradients against the formula's derivative."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.builders import view
from torch import Tensor

from megaent.objective.compose import TokenLoss, chain
from megaent.objective.token_losses import ClippedSurrogate, EntropyBonus, KLToReference
from megaent.types import PolicyView

LOG_RATIO = [
    0.4054651081081644,
    -0.6931471805599453,
    0.09531017980432493,
    1.3862943611198906,
]  # 1.5 0.5 1.1 4
ADVANTAGE = [1.0, -1.0, 1.0, -1.0]


def view_of(log_ratio: list[float], advantage: list[float]) -> PolicyView:
    ratio = torch.tensor(log_ratio, dtype=torch.float64)
    old = torch.full_like(ratio, -1.5)
    return replace(
        view(len(log_ratio)),
        log_prob=(old + ratio).requires_grad_(),
        log_prob_old=old,
        advantage=torch.tensor(advantage, dtype=torch.float64),
    )


def loss_and_gradient(piece: TokenLoss, batch: PolicyView) -> tuple[Tensor, Tensor]:
    loss_N, _ = piece(torch.zeros_like(batch.advantage), batch)
    (grad_N,) = torch.autograd.grad(loss_N.sum(), batch.log_prob)
    return loss_N.detach(), grad_N


def test_worked_cases_of_the_clip() -> None:
    loss, grad = loss_and_gradient(ClippedSurrogate(), view_of(LOG_RATIO, ADVANTAGE))
    assert loss.tolist() == pytest.approx([-1.2, 0.8, -1.1, 3.0], abs=1e-9)
    assert grad.tolist() == pytest.approx([0.0, 0.0, -1.1, 0.0], abs=1e-9), "clipped tokens teach nothing"
    higher = ClippedSurrogate(low=0.2, high=0.28, dual=None)
    loss, grad = loss_and_gradient(higher, view_of(LOG_RATIO, ADVANTAGE))
    assert loss.tolist() == pytest.approx([-1.28, 0.8, -1.1, 4.0], abs=1e-9)
    assert grad.tolist() == pytest.approx([0.0, 0.0, -1.1, 4.0], abs=1e-9)


def test_the_clip_is_the_formula_on_random_tokens() -> None:
    batch = view(500, spread=1.0)
    loss, grad = loss_and_gradient(ClippedSurrogate(low=0.1, high=0.3, dual=2.0), batch)
    clipped = 0
    for n in range(500):
        a, r = float(batch.advantage[n]), float(batch.log_ratio[n].detach().exp())
        bounded = min(max(r, 0.9), 1.3)
        expected, slope = (-a * r, -a * r) if -a * r >= -a * bounded else (-a * bounded, 0.0)
        if a < 0 and expected > -a * 2.0:
            expected, slope = -a * 2.0, 0.0
        clipped += slope == 0.0
        assert float(loss[n]) == pytest.approx(expected, rel=1e-12)
        assert float(grad[n]) == pytest.approx(slope, rel=1e-12)
    assert 100 < clipped < 400, "both kinds were tried"


def test_the_first_step_has_the_policy_gradient() -> None:
    """At ratio 1 the two branches meet; the gradient must be -A and not half of it."""
    advantage = [1.0, -2.0, 0.0, 0.5]
    loss, grad = loss_and_gradient(ClippedSurrogate(), view_of([0.0] * 4, advantage))
    assert loss.tolist() == grad.tolist() == [-a for a in advantage]


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("log_ratio", [-1e4, -50.0, 50.0, 1e4])
def test_absurd_ratios_stay_finite(log_ratio: float, advantage: float) -> None:
    for dual in (3.0, None):
        loss, grad = loss_and_gradient(ClippedSurrogate(dual=dual), view_of([log_ratio], [advantage]))
        assert bool(loss.isfinite().all())
        assert grad.tolist() == [0.0]


def test_the_shares_of_clipped_tokens_are_reported() -> None:
    _, metrics = ClippedSurrogate()(torch.zeros(4), view_of(LOG_RATIO, ADVANTAGE))
    assert {name: value.tolist() for name, value in metrics.items()} == {
        "clip/high": [1, 0, 0, 0],
        "clip/low": [0, 1, 0, 0],
        "clip/dual": [0, 0, 0, 1],
    }
    assert not any(value.requires_grad for value in metrics.values())
    assert "clip/dual" not in ClippedSurrogate(dual=None)(torch.zeros(4), view_of(LOG_RATIO, ADVANTAGE))[1]


def test_the_kl_to_the_reference_is_k3() -> None:
    batch = replace(
        view(3),
        log_prob=torch.tensor([-1.0, -0.5, -2.0], dtype=torch.float64, requires_grad=True),
        log_prob_ref=torch.tensor([-1.2, -0.5, -1.0], dtype=torch.float64),
    )
    loss, grad = loss_and_gradient(KLToReference(coef=1.0), batch)
    assert loss.tolist() == pytest.approx([0.018730753077981888, 0.0, 0.7182818284590451], abs=1e-9)
    d = torch.tensor([0.2, 0.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(grad, 1 - (-d).exp(), rtol=1e-12, atol=1e-12)
    scaled, _ = loss_and_gradient(KLToReference(coef=0.25), batch)
    torch.testing.assert_close(scaled, 0.25 * loss, rtol=1e-12, atol=0)


def test_a_far_reference_costs_at_most_ten() -> None:
    batch = replace(view(2), log_prob_ref=torch.tensor([1e4, -1e4], dtype=torch.float64))
    loss, grad = loss_and_gradient(KLToReference(coef=1.0), batch)
    assert loss.tolist() == [10.0, 10.0]
    assert grad.tolist() == [0.0, 0.0]


def test_the_kl_without_a_reference_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="needs_reference=True"):
        KLToReference(coef=1.0)(torch.zeros(3), replace(view(3), log_prob_ref=None))


def test_the_entropy_bonus_lowers_the_loss_by_the_entropy() -> None:
    batch = view(5)
    loss, metrics = EntropyBonus(coef=0.1)(torch.zeros(5, dtype=torch.float64), batch)
    torch.testing.assert_close(loss, -0.1 * batch.entropy)
    (grad,) = torch.autograd.grad(loss.sum(), batch.entropy)
    assert grad.tolist() == pytest.approx([-0.1] * 5)
    assert metrics == {}


def test_pieces_of_a_chain_add_up() -> None:
    batch = view(50)
    zero = torch.zeros(50, dtype=torch.float64)
    pieces = (ClippedSurrogate(), EntropyBonus(coef=0.1), KLToReference(coef=0.2))
    whole, metrics = chain(pieces[0], None, *pieces[1:])(zero, batch)
    torch.testing.assert_close(whole, sum(piece(zero, batch)[0] for piece in pieces), rtol=1e-12, atol=1e-12)
    assert metrics.keys() == {"clip/high", "clip/low", "clip/dual", "kl_to_ref/mean"}


def test_a_metric_reported_twice_is_refused() -> None:
    twice = chain(ClippedSurrogate(dual=None), ClippedSurrogate(dual=None))
    with pytest.raises(ValueError, match=r"clip/high.*another name"):
        twice(torch.zeros(3, dtype=torch.float64), view(3))
