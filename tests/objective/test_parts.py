"""A loss taken apart: its parts add up to it, in value and gradient, and each has its own name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.builders import view

from megaent.objective.advantages import GroupRelative
from megaent.objective.aggregations import TokenMean
from megaent.objective.compose import Part, compose
from megaent.objective.cores import Clipped
from megaent.objective.method import Loss, Term
from megaent.objective.parts import parts
from megaent.objective.terms import Constant, NucleusEntropy, entropy_bonus, kl_to_reference
from megaent.types import PolicyView

NUCLEUS = Term(name="nucleus", quantity=NucleusEntropy(p=0.5), coef=Constant(coef=0.7))


@pytest.fixture
def loss() -> Loss:
    base = Part(advantage=GroupRelative(), core=Clipped(), aggregation=TokenMean())
    terms = (*entropy_bonus(0.3), *kl_to_reference(0.2, "k3"), NUCLEUS)
    return compose({"all": Part(terms=terms)}, base=base).phases[0].method.loss


def seen_by(loss: Loss, coefs: dict[str, float]) -> tuple[PolicyView, torch.Tensor, list[torch.Tensor]]:
    seen = view(24, seed=3)
    coef = {name: torch.full((24,), value, dtype=torch.float64) for name, value in coefs.items()}
    seen = replace(seen, terms=replace(seen.terms, coefs=coef))
    value = loss(seen)[0].sum()
    assert seen.nucleus_entropy is not None
    leaves = [seen.log_prob, seen.entropy, seen.nucleus_entropy]
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    return (
        seen,
        value,
        [torch.zeros(24, dtype=torch.float64) if g is None else g for g in gradients],
    )


def test_parts_add_up_to_the_loss(loss: Loss) -> None:
    coefs = {"entropy_bonus": 0.3, "kl_to_ref": 0.2, "nucleus": 0.7}
    found = {name: seen_by(part, coefs) for name, part in parts(loss).items()}
    assert list(found) == ["policy", "entropy_bonus", "kl_to_ref", "nucleus"]
    _, whole, gradients = seen_by(loss, coefs)
    assert sum(value for _, value, _ in found.values()).item() == pytest.approx(whole.item(), abs=1e-12)
    for place, expected in enumerate(gradients):
        total = sum(parts_of[place] for _, _, parts_of in found.values())
        assert torch.allclose(total, expected, rtol=0, atol=1e-12)


def test_a_part_is_its_own_term_and_nothing_else(loss: Loss) -> None:
    alone = parts(loss)
    coefs = {"entropy_bonus": 0.3, "kl_to_ref": 0.2, "nucleus": 0.7}
    seen, value, (of_log_prob, of_entropy, of_nucleus) = seen_by(alone["entropy_bonus"], coefs)
    assert value.item() == pytest.approx(-0.3 * seen.entropy.sum().item(), abs=1e-12)
    assert not of_log_prob.any()
    assert not of_nucleus.any()
    assert torch.equal(of_entropy, torch.full((24,), -0.3, dtype=torch.float64))
    seen, value, (of_log_prob, of_entropy, _) = seen_by(alone["policy"], {})
    assert value.item() == pytest.approx(loss.core(seen)[0].sum().item(), abs=1e-12)
    assert of_log_prob.any()
    assert not of_entropy.any()


def test_only_the_part_that_reads_a_nucleus_asks_for_it(loss: Loss) -> None:
    assert {name: part.nucleus_p for name, part in parts(loss).items()} == {
        "policy": None,
        "entropy_bonus": None,
        "kl_to_ref": None,
        "nucleus": 0.5,
    }


def test_a_loss_without_terms_is_one_part(loss: Loss) -> None:
    plain = replace(loss, terms=())
    assert parts(plain) == {"policy": plain}
