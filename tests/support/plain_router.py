"""Router losses in plain torch, response by response, to compare the actor's with.

Written from the formulas, sharing no code with megaent; the scores are those of ``plain_lm``'s routers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from support.plain_lm import PlainModel, PlainResponse
from torch import Tensor


class RoutedModel(PlainModel):
    """Remembers what its routers said in the last pass, layer by layer."""

    said: list[Tensor]

    def _scores(self, router: str, h: Tensor) -> Tensor:
        self.said.append(super()._scores(router, h))
        return self.said[-1]

    def scores(self, response: PlainResponse) -> Tensor:
        """[L, R, E] at the positions from which the tokens of ``response`` are predicted."""
        self.said = []
        self.logits(torch.tensor(response.prompt + response.tokens)[:-1])
        return torch.stack(self.said)[:, len(response.prompt) - 1 :]

    def logits(self, tokens: Tensor) -> Tensor:
        self.said = []
        return super().logits(tokens)


@dataclass
class PlainRouterLosses:
    """``share`` names where the experts' shares come from: the whole step, or each response by itself."""

    balance_coef: float
    z_coef: float
    share: str = "step"
    balance: list[float] = field(default_factory=list)  # of every minibatch, mean of layers
    z: list[float] = field(default_factory=list)

    def begin(self, model: RoutedModel, responses: list[PlainResponse]) -> None:
        chosen_LNE = torch.cat([self._chosen(model, response) for response in responses], dim=1)
        self._share_LE = chosen_LNE.mean(1)

    def loss(self, model: RoutedModel, responses: list[PlainResponse]) -> Tensor:
        x_LNE = torch.cat([model.scores(response) for response in responses], dim=1)
        p_LE = x_LNE.softmax(-1).mean(1)
        balance_L = x_LNE.shape[2] * (self._share_LE * p_LE).sum(1)
        if self.share == "response":
            balance_L = self._by_response(model, responses)
        z_L = x_LNE.exp().sum(-1).log().square().mean(1)
        self.balance.append(float(balance_L.detach().mean()))
        self.z.append(float(z_L.detach().mean()))
        return self.balance_coef * balance_L.sum() + self.z_coef * z_L.sum()

    def _by_response(self, model: RoutedModel, responses: list[PlainResponse]) -> Tensor:
        """What depends on the split: a product of two means of each microbatch, here of one response."""
        parts = []
        for response in responses:
            x_LNE, share_LE = model.scores(response), self._chosen(model, response).mean(1)
            parts.append(x_LNE.shape[2] * (share_LE * x_LNE.softmax(-1).mean(1)).sum(1))
        return torch.stack(parts).mean(0)

    @staticmethod
    def _chosen(model: RoutedModel, response: PlainResponse) -> Tensor:
        """[L, R, E] the part of a position's choices that fell on each expert."""
        x_LNE, k = model.scores(response).detach(), model.config["num_experts_per_tok"]
        least_LN1 = x_LNE.topk(k).values[..., -1:]
        return (x_LNE >= least_LN1).to(x_LNE.dtype) / k
