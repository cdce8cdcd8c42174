"""What can be added to the loss of a token: entropy and KL terms, and the rules of their coefficients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megaent.objective.checks import require
from megaent.objective.cores import MAX_LOG_RATIO
from megaent.objective.method import Term
from megaent.objective.seen import Seen, Tokens
from megaent.types import PolicyView

ESTIMATORS = ("k1", "k2", "k3", "abs")
ANCHORS = ("old", "ref")


# ---------------------------------------------------------------- quantities


@dataclass(frozen=True, slots=True)
class NegativeEntropy:
    """``-H`` of the current policy, with its gradient; H in nats over the whole vocabulary."""

    @property
    def needs_reference(self) -> bool:
        return False

    @property
    def nucleus_p(self) -> None:
        return None

    def __call__(self, view: PolicyView) -> Tensor:
        return -view.entropy

    def words(self) -> str:
        return "-entropy"


@dataclass(frozen=True, slots=True, kw_only=True)
class NucleusEntropy:
    """The entropy of the most probable tokens that reach ``p`` together, renormalised, with its gradient."""

    p: float = 0.8

    def __post_init__(self) -> None:
        require(0 < self.p <= 1, "p", "lie in (0, 1]", self.p)

    @property
    def needs_reference(self) -> bool:
        return False

    @property
    def nucleus_p(self) -> float:
        return self.p

    def __call__(self, view: PolicyView) -> Tensor:
        if view.nucleus_entropy is None:
            raise ValueError(f"a term reads the entropy over a nucleus; ask the pass for nucleus_p={self.p}")
        return view.nucleus_entropy

    def words(self) -> str:
        return f"the entropy over the nucleus of {self.p:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KL:
    """An estimate of KL(pi, anchor) on the sampled token, d = log pi - log pi_anchor.

    Schulman's estimators: k1 = d, k2 = d^2 / 2, k3 = exp(-d) + d - 1; abs = |d|. In k3, -d is clamped
    to 20 and the term to 10, as in verl's ``low_var_kl``; in abs a difference within rounding is 0 and has
    no gradient, which published code leaves to chance. Anchor "old" is the policy at the start of the
    step, "ref" the frozen reference.
    """

    estimator: str = "k3"
    anchor: str = "ref"

    def __post_init__(self) -> None:
        if self.estimator not in ESTIMATORS:
            raise ValueError(f"kl must be one of {', '.join(ESTIMATORS)}, got {self.estimator!r}")
        if self.anchor not in ANCHORS:
            raise ValueError(f"anchor must be one of {', '.join(ANCHORS)}, got {self.anchor!r}")

    @property
    def needs_reference(self) -> bool:
        return self.anchor == "ref"

    @property
    def nucleus_p(self) -> None:
        return None

    def __call__(self, view: PolicyView) -> Tensor:
        anchor_N = view.old.log_prob_old if self.anchor == "old" else view.old.log_prob_ref
        if anchor_N is None:
            raise ValueError("a KL term to the reference needs log_prob_ref; score with_reference=True first")
        return kl(view.log_prob, anchor_N, self.estimator)

    def words(self) -> str:
        return f"KL ({self.estimator}) to the {'old' if self.anchor == 'old' else 'reference'} policy"


def kl(log_prob_N: Tensor, anchor_N: Tensor, estimator: str) -> Tensor:
    """[N] nats; see ``KL``."""
    d_N = log_prob_N - anchor_N
    match estimator:
        case "k1":
            return d_N
        case "abs":
            # Two passes over the same weights differ by rounding, and |d| would give that a gradient of full
            # size and chance sign; it counts as no difference.
            noise_N = 64 * torch.finfo(d_N.dtype).eps * anchor_N.abs().clamp(min=1.0)
            return torch.where(d_N.abs() > noise_N, d_N.abs(), 0.0)
        case "k2":
            return d_N.square() / 2
        case "k3":
            minus_d_N = (-d_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
            return (minus_d_N.exp() - minus_d_N - 1.0).clamp(-10.0, 10.0)
    raise ValueError(f"kl must be one of {', '.join(ESTIMATORS)}, got {estimator!r}")


# ---------------------------------------------------------------- coefficients


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """The same for every token."""

    coef: float

    @property
    def scope(self) -> str:
        return "mini"

    def __call__(self, tokens: Tokens, seen: Seen | None) -> Tensor:
        return torch.full_like(tokens.advantage, self.coef)

    def words(self) -> str:
        return f"{self.coef:g}"


def entropy_bonus(coef: float) -> tuple[Term, ...]:
    """``- coef * H``; nothing for a coefficient of 0."""
    return (Term(name="entropy_bonus", quantity=NegativeEntropy(), coef=Constant(coef=coef)),) if coef else ()


def kl_to_reference(coef: float, estimator: str = "k3") -> tuple[Term, ...]:
    """``+ coef * KL(pi, pi_ref)``; nothing for a coefficient of 0."""
    quantity = KL(estimator=estimator, anchor="ref")
    return (Term(name="kl_to_ref", quantity=quantity, coef=Constant(coef=coef)),) if coef else ()
