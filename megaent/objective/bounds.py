"""Treating tokens of low and of high entropy differently: clip bounds and a coefficient by token.

Archer: Wang et al. 2025, "Stabilizing Knowledge, Promoting Reasoning", arXiv:2507.15778. Within each response
the tokens above its entropy quantile reason and may move, those below hold knowledge and are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from megaent.objective.checks import require, require_one_of
from megaent.objective.seen import Seen, Tokens


def response_quantile(tokens: Tokens, value_N: Tensor, q: float) -> Tensor:
    """[N] fp64: the q-quantile over the trained tokens of each token's response, as ``torch.quantile``.

    0 for a response without a trained token. A response must be whole, as it is in ``estimate``.
    """
    trained = tokens.mask.nonzero()[:, 0]
    value_K, owner_K = value_N.double()[trained], tokens.owner[trained]
    by_value = value_K.argsort(stable=True)
    sorted_K = value_K[by_value[owner_K[by_value].argsort(stable=True)]]
    if not sorted_K.numel():
        return torch.zeros_like(value_N, dtype=torch.float64)
    count_S = torch.bincount(owner_K, minlength=tokens.num_responses)
    first_S = count_S.cumsum(0) - count_S
    place_S = (count_S - 1).clamp(min=0).double() * q
    lower_S, upper_S = place_S.floor().long(), place_S.ceil().long()
    last = sorted_K.numel() - 1
    low_S, high_S = (sorted_K[(first_S + place).clamp(max=last)] for place in (lower_S, upper_S))
    value_S = torch.lerp(low_S, high_S, place_S - lower_S)
    return torch.where(count_S > 0, value_S, 0.0)[tokens.owner]


def is_high_entropy(tokens: Tokens, q: float) -> Tensor:
    """[N] bool: entropy above the q-quantile of the token's response."""
    return tokens.entropy.double() > response_quantile(tokens, tokens.entropy, q)


@dataclass(frozen=True, slots=True, kw_only=True)
class EntropyBounds:
    """Clip bounds: ``low_entropy`` both ways up to the response's ``quantile``, ``high_entropy`` above it."""

    quantile: float = 0.8
    low_entropy: float = 0.2
    high_entropy: float = 0.5

    def __post_init__(self) -> None:
        require(0 < self.quantile < 1, "quantile", "lie in (0, 1)", self.quantile)
        require(0 <= self.low_entropy <= 1, "clip_low_entropy", "lie in [0, 1]", self.low_entropy)
        require(0 <= self.high_entropy <= 1, "clip_high_entropy", "lie in [0, 1]", self.high_entropy)

    def __call__(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        is_high_N = is_high_entropy(tokens, self.quantile)
        bound_N = torch.where(
            is_high_N, self.high_entropy, torch.full_like(tokens.advantage, self.low_entropy)
        )
        return bound_N, bound_N.clone()

    def words(self) -> str:
        return (
            f"1 +- {self.low_entropy:g}, but 1 +- {self.high_entropy:g} above the {self.quantile:g}-quantile "
            "of the response's entropies"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EntropyCoefficient:
    """A coefficient for tokens up to the response's entropy ``quantile`` and one for those above.

    ``mean_over="low"``: the term is averaged over the low-entropy tokens alone, as in the authors' code,
    by scaling it with (trained tokens / low-entropy tokens) of the minibatch. That is exact beside the
    token mean. ``"all"`` leaves it unscaled.
    """

    low_entropy: float = 1e-3
    high_entropy: float = 0.0
    quantile: float = 0.8
    mean_over: str = "low"

    def __post_init__(self) -> None:
        require_one_of("kl_mean", ("low", "all"), self.mean_over)
        require(0 < self.quantile < 1, "quantile", "lie in (0, 1)", self.quantile)

    @property
    def scope(self) -> str:
        return "mini"

    def __call__(self, tokens: Tokens, seen: Seen | None) -> Tensor:
        is_high_N = is_high_entropy(tokens, self.quantile)
        coef_N = torch.where(
            is_high_N, self.high_entropy, torch.full_like(tokens.advantage, self.low_entropy)
        )
        if self.mean_over == "all":
            return coef_N
        ones_N = torch.ones_like(coef_N)
        share_M = tokens.total(ones_N, ~is_high_N) / tokens.total(ones_N).clamp(min=1)
        return coef_N / tokens.spread(torch.where(share_M > 0, share_M, 1.0)).to(coef_N.dtype)

    def words(self) -> str:
        return (
            f"{self.low_entropy:g} up to the {self.quantile:g}-quantile of the response's entropies, "
            f"{self.high_entropy:g} above, mean over {self.mean_over} tokens"
        )
