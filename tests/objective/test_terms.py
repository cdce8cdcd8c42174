"""What is added to the loss of a token, and how the fixed loss puts it together."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.builders import view
from support.views import changed
from torch import Tensor

from megaent.objective.cores import Clipped, Unclipped
from megaent.objective.covariance import HighestCovariance
from megaent.objective.method import Loss, Quantity, Term, microbatch_tokens
from megaent.objective.terms import (
    ANCHORS,
    ESTIMATORS,
    KL,
    NegativeEntropy,
    entropy_bonus,
    kl,
    kl_to_reference,
)
from megaent.objective.weights import EntropyChange
from megaent.types import PolicyView


def value_and_gradient(quantity: Quantity, batch: PolicyView) -> tuple[Tensor, Tensor]:
    value_N = quantity(batch)
    (grad_N,) = torch.autograd.grad(value_N.sum(), batch.log_prob)
    return value_N.detach(), grad_N


def near_and_far() -> PolicyView:
    return changed(
        view(3),
        log_prob=torch.tensor([-1.0, -0.5, -2.0], dtype=torch.float64, requires_grad=True),
        log_prob_ref=torch.tensor([-1.2, -0.5, -1.0], dtype=torch.float64),
    )


# ---------------------------------------------------------------- quantities


def test_the_estimators_and_their_gradients() -> None:
    d = torch.tensor([0.2, 0.0, -1.0], dtype=torch.float64)
    expected = {
        "k1": (d, torch.ones(3).double()),
        "abs": (d.abs(), d.sign()),
        "k2": (d.square() / 2, d),
        "k3": ((-d).exp() + d - 1, 1 - (-d).exp()),
    }
    assert expected.keys() == set(ESTIMATORS)
    for name, (value, grad) in expected.items():
        found, slope = value_and_gradient(KL(estimator=name, anchor="ref"), near_and_far())
        torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(slope, grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_mean_of_k1_and_k3_is_the_divergence(estimator: str) -> None:
    """Exactly, over all tokens of a small vocabulary weighed by their probability."""
    noise = torch.Generator().manual_seed(0)
    p, q = torch.randn(2, 6, generator=noise, dtype=torch.float64).log_softmax(1)
    truth = float((p.exp() * (p - q)).sum())
    batch = changed(view(6), log_prob=p, log_prob_ref=q)
    found = float((p.exp() * KL(estimator=estimator, anchor="ref")(batch)).sum())
    if estimator in ("k1", "k3"):
        assert found == pytest.approx(truth, rel=1e-12)
    else:
        assert found > 0


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_at_the_anchor_there_is_nothing_to_pay(estimator: str) -> None:
    batch = view(4)
    batch = changed(batch, log_prob_old=batch.log_prob.detach().clone())
    found, _ = value_and_gradient(KL(estimator=estimator, anchor="old"), batch)
    assert found.tolist() == [0.0] * 4


def test_a_far_reference_costs_at_most_ten() -> None:
    batch = changed(view(2), log_prob_ref=torch.tensor([1e4, -1e4], dtype=torch.float64))
    value, grad = value_and_gradient(KL(estimator="k3", anchor="ref"), batch)
    assert value.tolist() == [10.0, 10.0]
    assert grad.tolist() == [0.0, 0.0]


def test_the_kl_without_a_reference_says_what_to_do() -> None:
    assert [KL(anchor=anchor).needs_reference for anchor in ANCHORS] == [False, True]
    with pytest.raises(ValueError, match="with_reference=True"):
        KL(anchor="ref")(changed(view(3), log_prob_ref=None))


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"estimator": "k4"}, "kl must be one of k1, k2, k3, abs, got 'k4'"),
        ({"anchor": "new"}, "anchor must be one of old, ref, got 'new'"),
    ],
)
def test_an_unknown_kl_is_refused(option: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        KL(**option)


# ---------------------------------------------------------------- the fixed loss


def loss_of(loss: Loss, batch: PolicyView) -> Tensor:
    """With the coefficients that ``estimate`` would have taken."""
    tokens = microbatch_tokens(batch)
    coefs = {term.name: term.coef(tokens, None) for term in loss.terms}
    return loss(changed(batch, coefs=coefs))[0]


def test_the_entropy_bonus_lowers_the_loss_by_the_entropy() -> None:
    batch = view(5)
    plain = loss_of(Loss(core=Clipped()), batch)
    loss = loss_of(Loss(core=Clipped(), terms=entropy_bonus(0.1)), batch)
    torch.testing.assert_close(loss, plain - 0.1 * batch.entropy)
    (grad,) = torch.autograd.grad(loss.sum(), batch.entropy)
    assert grad.tolist() == pytest.approx([-0.1] * 5)


def test_terms_and_weights_add_up() -> None:
    batch = changed(view(50), policy_weight=torch.rand(50, dtype=torch.float64))
    terms = (*entropy_bonus(0.1), *kl_to_reference(0.2))
    whole, metrics = Loss(core=Clipped(), terms=terms)(
        changed(batch, coefs={"entropy_bonus": 0.1 * torch.ones(50), "kl_to_ref": 0.2 * torch.ones(50)})
    )
    expected = (
        batch.terms.policy_weight * Clipped()(batch)[0]
        - 0.1 * batch.entropy
        + 0.2 * KL(estimator="k3", anchor="ref")(batch)
    )
    torch.testing.assert_close(whole, expected, rtol=1e-7, atol=1e-7)
    clip = {"clip/high", "clip/low", "clip/dual"}
    added = {f"{name}/{what}" for name in ("entropy_bonus", "kl_to_ref") for what in ("value", "coef")}
    assert metrics.keys() == clip | added
    assert not any(value.requires_grad for value in metrics.values())


def test_a_coefficient_of_0_adds_no_term() -> None:
    assert entropy_bonus(0.0) == kl_to_reference(0.0) == ()


def test_rules_of_scope_micro_read_the_current_policy() -> None:
    """KL-Cov as published: the highest covariance of A and the current log-prob."""
    batch = view(40)
    term = Term(
        name="kl_cov",
        quantity=KL(estimator="abs", anchor="old"),
        coef=HighestCovariance(coef=0.5, fraction=0.1, scope="micro"),
    )
    loss, metrics = Loss(core=Unclipped(), terms=(term,))(batch)
    a, p = batch.terms.advantage, batch.log_prob.detach()
    chosen = ((a - a.mean()) * (p - p.mean())).topk(4).indices
    expected = -a * batch.log_ratio.exp()
    expected = expected.index_add(0, chosen, 0.5 * batch.log_ratio.abs()[chosen])
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    assert metrics["kl_cov/coef"].nonzero()[:, 0].tolist() == sorted(chosen.tolist())


def test_weights_of_scope_micro_carry_no_gradient() -> None:
    batch = view(40)
    rule = EntropyChange(w_min=0.5, scope="micro")
    loss, _ = Loss(core=Unclipped(), weights=(rule,))(batch)
    (grad,) = torch.autograd.grad(loss.sum(), batch.log_prob)
    torch.testing.assert_close(grad, loss.detach(), rtol=1e-12, atol=1e-12)
    plain = Unclipped()(batch)[0].detach()
    weight = loss.detach() / plain
    assert 0.5 - 1e-12 <= float(weight.min()) < 0.99
    with_mini = Loss(core=Unclipped(), weights=(replace(rule, scope="mini"),))(batch)[0]
    assert torch.equal(with_mini, Unclipped()(batch)[0]), "scope mini is in policy_weight already"


def test_words_name_every_coefficient() -> None:
    (term,) = kl_to_reference(0.25)
    assert term.words() == "kl_to_ref: (0.25) x KL (k3) to the reference policy"
    assert NegativeEntropy().words() == "-entropy"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_between_two_passes_is_no_divergence_and_has_no_gradient(dtype: torch.dtype) -> None:
    anchor = torch.tensor([-0.3, -7.0, -0.3, -7.0], dtype=dtype)
    ulps = torch.tensor([2.0, -3.0, 1e3, -1e3], dtype=dtype)
    moved = (anchor + ulps * torch.finfo(dtype).eps * anchor.abs().clamp(min=1)).requires_grad_()
    value = kl(moved, anchor, "abs")
    (gradient,) = torch.autograd.grad(value.sum(), moved)
    assert gradient.tolist() == [0.0, 0.0, 1.0, -1.0]
    assert value[:2].tolist() == [0.0, 0.0]
    assert bool((value[2:] > 0).all())
