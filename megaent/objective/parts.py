"""A loss taken apart: the policy term and each added term, every one a loss of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from megaent.objective.method import Loss, TokenMetrics
from megaent.objective.seen import Tokens
from megaent.types import PolicyView

POLICY = "policy"


@dataclass(frozen=True, slots=True)
class _Nothing:
    """In the place of the policy term."""

    def bounds(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        raise AssertionError("a part of a loss is never estimated, its terms were")

    def __call__(self, view: PolicyView) -> tuple[Tensor, TokenMetrics]:
        return torch.zeros_like(view.log_prob), {}

    def words(self) -> str:
        return "nothing"


def parts(loss: Loss) -> dict[str, Loss]:
    """By name, in the order of the loss, which is their sum."""
    alone = {term.name: replace(loss, core=_Nothing(), weights=(), terms=(term,)) for term in loss.terms}
    return {POLICY: replace(loss, terms=()), **alone}
