"""SIREN's coefficient beside the gradient of the square that it stands for, and its anchor."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.batches import applied, random_groups, scored_batch, stepped_view
from support.choices import methods_of

from megaent.methods import build_method
from megaent.objective.self_anchored import InitialEntropy
from megaent.types import Experience

ANCHOR, COEF, QUANTILE = 0.3, 0.02, 0.6


def quantiles(batch: Experience) -> torch.Tensor:
    """[T] of each token's response, by torch."""
    assert batch.nucleus_entropy is not None
    rows = batch.nucleus_entropy.double().split(batch.length.tolist())
    return torch.cat([row.quantile(QUANTILE).expand(row.numel()) for row in rows])


def test_the_coefficient_is_the_slope_of_the_square() -> None:
    """Beside the token mean, on the policy that was scored."""
    options = {"coef": COEF, "quantile": QUANTILE, "anchor": ANCHOR}
    ((schedule, method),) = methods_of({"siren": options})
    batch = scored_batch(random_groups(2))
    assert batch.nucleus_entropy is not None
    terms, told = applied(method, schedule, batch)
    entropy = batch.nucleus_entropy.double().requires_grad_()
    is_peak = entropy.detach() > quantiles(batch)
    mean = entropy[is_peak].mean()
    (expected,) = torch.autograd.grad(COEF * (mean - ANCHOR).square(), entropy)
    view = replace(stepped_view(batch, terms), nucleus_entropy=entropy)
    loss, _ = method.loss(view)
    (found,) = torch.autograd.grad((terms.weight.double() * loss).sum(), entropy)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0.0)
    assert bool((found[~is_peak] == 0).all())
    assert told["siren/entropy"] == pytest.approx(mean.item(), rel=1e-6)
    assert told["siren/peak_share"] == pytest.approx(is_peak.double().mean().item())


def test_the_first_step_sets_the_anchor_and_holds_nothing() -> None:
    ((schedule, method),) = methods_of({"siren": {}})
    batch = scored_batch(random_groups(3))
    (controller,) = method.controllers
    before = controller.coefs(controller.start())
    terms, told = applied(method, schedule, batch, coefs=before)
    assert bool((terms.coefs["siren"] == 0).all())
    state = controller.update(controller.start(), told)
    assert state == {"anchor": told["siren/entropy"], "is_set": 1.0}
    assert controller.update(state, {"siren/entropy": 9.0}) == state
    lower = replace(batch, nucleus_entropy=batch.nucleus_entropy / 2)
    terms, _ = applied(method, schedule, lower, coefs=controller.coefs(state))
    assert float(terms.coefs["siren"].min()) < 0 == float(terms.coefs["siren"].max())


def test_an_anchor_that_is_given_holds_from_the_first_step() -> None:
    given = InitialEntropy(anchor=0.4)
    assert given.coefs(given.start()) == {"siren_anchor": 0.4, "siren_is_set": 1.0}
    assert given.update(given.start(), {"siren/entropy": 1.0}) == given.start()


def test_the_loss_says_which_nucleus_it_reads() -> None:
    assert build_method({"siren": {"p": 0.7}}).phases[0].method.loss.nucleus_p == 0.7
    assert build_method({"siren": {"coef": 0.0}}).phases[0].method.loss.nucleus_p is None


def test_a_batch_scored_without_the_nucleus_is_refused() -> None:
    ((schedule, method),) = methods_of({"siren": {"anchor": 0.4}})
    batch = replace(scored_batch(random_groups(1)), nucleus_entropy=None)
    with pytest.raises(ValueError, match="score with nucleus_p first"):
        applied(method, schedule, batch)
