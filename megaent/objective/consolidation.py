"""Which certain tokens to hold in place: SENT's coefficient on low-entropy tokens.

SENT, arXiv:2512.04359. Among the tokens of lowest entropy, those whose log-prob and advantage move
together lose entropy fastest. The rule gives each token the coefficient of a KL term.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from megaent.objective.seen import Seen, Tokens
from megaent.objective.select import largest, smallest


class Selection(NamedTuple):
    low: Tensor  # [N] bool, lowest entropy
    covariance: Tensor  # [N] fp64, (log_prob - mean) (advantage - mean); 0 outside the low tokens
    top: Tensor  # [N] bool, low tokens of largest covariance
    bottom: Tensor  # [N] bool, low tokens of smallest covariance


@dataclass(frozen=True, slots=True, kw_only=True)
class LowEntropyCovariance:
    """The tokens of lowest entropy, and among them those of extreme covariance.

    ``floor(low_frac n)`` of the n counted tokens of a minibatch, and ``floor(cov_ratio k)`` of these k at
    either end, one at least; the means of the covariance are over the k ("low") or over the n ("all").
    """

    low_frac: float = 0.8
    cov_ratio: float = 2e-4
    mean_over: str = "low"

    def __post_init__(self) -> None:
        if not 0 < self.low_frac <= 1:
            raise ValueError(f"low_frac must lie in (0, 1], got {self.low_frac}")
        if not 0 < self.cov_ratio <= 1:
            raise ValueError(f"cov_ratio must lie in (0, 1], got {self.cov_ratio}; 0.02 % is 2e-4")
        if self.mean_over not in ("low", "all"):
            raise ValueError(f"cov_mean must be low or all, got {self.mean_over!r}")

    def __call__(self, tokens: Tokens) -> Selection:
        ones_N = torch.ones_like(tokens.entropy, dtype=torch.float64)
        low_N = smallest(tokens, tokens.entropy, _share(tokens.total(ones_N), self.low_frac))
        among_N = low_N if self.mean_over == "low" else tokens.counted()
        log_prob_N, advantage_N = tokens.log_prob.double(), tokens.advantage.double()
        mean_log_prob_N, mean_advantage_N = tokens.means((log_prob_N, advantage_N), among_N)
        covariance_N = (log_prob_N - mean_log_prob_N) * (advantage_N - mean_advantage_N)
        covariance_N = torch.where(low_N, covariance_N, 0.0)
        count_M = _share(tokens.total(ones_N, low_N), self.cov_ratio)
        return Selection(
            low=low_N,
            covariance=covariance_N,
            top=largest(tokens, covariance_N, count_M, low_N),
            bottom=smallest(tokens, covariance_N, count_M, low_N),
        )

    def words(self) -> str:
        return (
            f"the {self.low_frac:g} of lowest entropy, at either end of covariance {self.cov_ratio:g} of them"
        )


def _share(count_M: Tensor, share: float) -> Tensor:
    return (count_M * share).floor().clamp(min=1).long()


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldLowEntropy:
    """The paper's rule: ``beta_high`` on low tokens of largest covariance, ``beta_low`` on other low ones."""

    tokens: LowEntropyCovariance
    beta_low: float = 0.05
    beta_high: float = 0.2
    scope: str = "mini"

    def __post_init__(self) -> None:
        _check(self.beta_low, self.beta_high, self.scope)

    def __call__(self, tokens: Tokens, seen: Seen | None) -> Tensor:
        chosen = self.tokens(tokens)
        _note(chosen, tokens, seen)
        coef_N = torch.zeros_like(tokens.advantage)
        coef_N[chosen.low] = self.beta_low
        coef_N[chosen.top] = self.beta_high
        return coef_N

    def words(self) -> str:
        return (
            f"{self.beta_high:g} on tokens of large covariance, {self.beta_low:g} on other low-entropy ones; "
            f"{self.tokens.words()}, of a {self.scope}batch"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldExtremes:
    """The released rule: ``beta_high`` on the largest covariances, ``beta_low`` on the smallest, else 0.

    A token that is among both, which takes a very small minibatch, pays both.
    """

    tokens: LowEntropyCovariance
    beta_low: float = 0.05
    beta_high: float = 0.2
    scope: str = "mini"

    def __post_init__(self) -> None:
        _check(self.beta_low, self.beta_high, self.scope)

    def __call__(self, tokens: Tokens, seen: Seen | None) -> Tensor:
        chosen = self.tokens(tokens)
        _note(chosen, tokens, seen)
        dtype = tokens.advantage.dtype
        return self.beta_high * chosen.top.to(dtype) + self.beta_low * chosen.bottom.to(dtype)

    def words(self) -> str:
        return (
            f"{self.beta_high:g} on low-entropy tokens of largest covariance, {self.beta_low:g} on those of "
            f"smallest; {self.tokens.words()}, of a {self.scope}batch"
        )


def _check(beta_low: float, beta_high: float, scope: str) -> None:
    if not 0 <= beta_low <= beta_high:
        raise ValueError(f"0 <= beta_low <= beta_high must hold, got {beta_low} and {beta_high}")
    if scope not in ("mini", "micro"):
        raise ValueError(f"scope must be mini or micro, got {scope!r}")


def _note(chosen: Selection, tokens: Tokens, seen: Seen | None) -> None:
    if seen is not None:
        seen.notes.mean("sent/low_share", chosen.low, tokens.counted())
        seen.notes.mean("sent/high_share", chosen.top, tokens.counted())
