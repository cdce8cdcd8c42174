"""Losses of a mixture's routers that no split of the batch changes.

With N tokens predicted by all replicas in an optimizer step, E experts, k of them a token, and x_nl [E] the
scores of layer l at the position from which token n is predicted:

    balance = E sum_l sum_e share_le 1/N sum_n softmax(x_nl)_e      (Fedus et al. 2021, eq. 4-6)
    z       = 1/N sum_l sum_n logsumexp(x_nl)^2                     (Zoph et al. 2022, ST-MoE, eq. 5)

``share_le`` is the share of the choices of layer l that fell on expert e while the old policy scored the
whole step, all replicas together (Qiu et al. 2025, "Demons in the Detail", takes it over a global batch as
well). It is a constant, so that each loss is a sum over tokens whose weights know the whole minibatch, as the
policy's loss is. Megatron-Core multiplies two means over one microbatch and counts padding and prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from megatron.core.transformer.moe.moe_utils import MoEAuxLossAutoScaler
from torch import Tensor

from megaent.actor.parallel import Layout
from megaent.actor.predicting import PredictingPositions
from megaent.actor.router import Router
from megaent.actor.router_options import RouterOptions
from megaent.types import Metrics


class RouterLosses:
    """Adds the gradients of both losses to whatever trains the model.

    ``routers`` are this rank's; the positions they see and the layers are nobody else's.
    """

    def __init__(
        self,
        routers: Sequence[Router],
        options: RouterOptions,
        positions: PredictingPositions,
        *,
        num_layers: int,
        layout: Layout,
    ) -> None:
        self._options, self._positions, self._layout = options, positions, layout
        self._sum_L2 = torch.zeros(num_layers, 2, dtype=torch.float64, device=layout.device)
        self._slope_LE: Tensor | None = None  # of the balance loss by a router's shares
        self._predicted: list[float] = []
        self._weight, self._num_steps = 0.0, 0
        self._is_left_out = False
        for router in routers:
            router.attach = self._attach

    def begin(self, count_LE: Tensor, minibatch_T: Tensor, num_minibatches: int) -> None:
        """Before a step's updates: how often the old policy chose each expert, and this replica's tokens by
        the minibatch they are in. A collective over replicas. Raises ValueError where nothing was scored.
        """
        chosen_L1 = count_LE.sum(1, keepdim=True)
        if not bool((chosen_L1 > 0).all()):
            raise ValueError("the balance of experts is that of the scoring pass; call score before update")
        self._slope_LE = count_LE.shape[1] * count_LE / chosen_L1
        mine = torch.bincount(minibatch_T[minibatch_T >= 0].cpu(), minlength=num_minibatches)
        self._predicted = self._layout.sum(mine.double()).tolist()
        self._sum_L2.zero_()
        self._num_steps = 0

    def begin_minibatch(self, number: int) -> None:
        self._weight = 1.0 / max(self._predicted[number], 1.0)
        self._num_steps += 1

    @contextmanager
    def left_out(self) -> Iterator[None]:
        self._is_left_out = True
        try:
            yield
        finally:
            self._is_left_out = False

    def _attach(self, logits_N1E: Tensor, layer: int) -> Tensor:
        # Without gradients: scoring, or the first pass of what is computed again.
        if self._is_left_out or not torch.is_grad_enabled():
            return logits_N1E
        assert self._slope_LE is not None, "begin comes before every update"
        logits_NE = logits_N1E[:, 0]
        weight_N = (self._weight * self._positions.count_N).to(logits_NE.dtype)
        balance = weight_N @ (logits_NE.softmax(-1) @ self._slope_LE[layer].to(logits_NE.dtype))
        z = weight_N @ logits_NE.logsumexp(-1).square()
        self._sum_L2[layer] += torch.stack([balance, z]).detach()
        loss = self._options.balance_coef * balance + self._options.z_coef * z
        return MoEAuxLossAutoScaler.apply(logits_N1E, loss)  # type: ignore[no-any-return]

    def metrics(self) -> Metrics:
        """Means over layers and optimizer steps. A collective over the world, whose sums are disjoint."""
        total_L2 = self._sum_L2.clone()
        dist.all_reduce(total_L2)
        balance, z = (total_L2.mean(0) / max(self._num_steps, 1)).tolist()
        return {"experts/balance_loss": balance, "experts/z_loss": z}
