"""One microbatch through the model, in the form Megatron's schedules call; the one fixed loss.

A method arrives here as per-token numbers and a ``Loss``. The weights already carry the
aggregation over the global minibatch, so the loss is a plain sum and the gradients of microbatches,
context ranks and replicas only have to be added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from megaent.actor.kept_graphs import KeptGraphs
from megaent.actor.microbatch import Microbatch
from megaent.objective.method import Loss
from megaent.types import Experience, PolicyView, Replicas, TokenTerms

Scored = dict[str, Tensor]


def run_model(
    model: torch.nn.Module,
    microbatch: Microbatch,
    temperature: float,
    check: Tensor | None = None,
    nucleus_p: float | None = None,
) -> Tensor:
    return model(
        microbatch.input_ids,
        microbatch.position_ids,
        packed=microbatch.packed,
        row=microbatch.row,
        target=microbatch.target,
        temperature=temperature,
        check=check,
        nucleus_p=nucleus_p,
    )


def scoring_step(
    statistics: Tensor,
    temperature: float,
    kept: KeptGraphs,
    check: Tensor | None = None,
    nucleus_p: float | None = None,
) -> Callable:
    """A forward step that writes into ``statistics`` [3 or 4, T] at the tokens' places.

    Log_prob, entropy, at the places ``check`` [K] the canary's disagreement, and the entropy over the nucleus
    where ``nucleus_p`` asks for it.
    """

    def forward_step(microbatches: Iterator[Microbatch], model: torch.nn.Module):
        microbatch = next(microbatches)

        def keep(output: Tensor):
            statistics[:, microbatch.place] = output.detach()
            return output.detach().sum(), _count(microbatch), {}

        here = None if check is None else torch.isin(microbatch.place, check).nonzero()[:, 0]
        output = kept.forward(microbatch, lambda: run_model(model, microbatch, temperature, here, nucleus_p))
        return output, keep

    return forward_step


def training_step(
    batch: Experience,
    terms: TokenTerms,
    token_loss: Loss,
    sums: MetricSums,
    *,
    kept: KeptGraphs,
    temperature: float,
    context: Replicas,
    device: torch.device,
) -> Callable:
    """A forward step whose loss is ``sum(weight * token_loss)`` over the microbatch's tokens.

    What the loss reads is moved to ``device`` once; the batch itself stays where it is. The output of a pack
    that scoring kept is not computed again.
    """
    old, terms = batch.old.to(device), terms.to(device)
    nucleus_p = token_loss.nucleus_p
    if nucleus_p is not None and batch.nucleus_entropy is None:
        raise ValueError(f"the loss reads the entropy over a nucleus; score with nucleus_p={nucleus_p} first")

    def forward_step(microbatches: Iterator[Microbatch], model: torch.nn.Module):
        microbatch = next(microbatches)

        def weighted_loss(output: Tensor):
            view = PolicyView(
                log_prob=output[0],
                entropy=output[1],
                nucleus_entropy=None if nucleus_p is None else output[3],
                old=old.at(microbatch.place),
                terms=terms.at(microbatch.place),
                num_responses=batch.num_responses,
                population=context,
            )
            loss_N, metrics = token_loss(view)
            weight_N = view.terms.weight
            # A token of weight 0 must not pass a NaN on: 0 * nan is nan.
            loss = torch.where(weight_N != 0, weight_N * loss_N, 0.0).sum()
            sums.add(loss, view, metrics)
            return loss, _count(microbatch), {}

        output = kept.take(microbatch)
        if output is None:
            output = run_model(model, microbatch, temperature, nucleus_p=nucleus_p)
        return output, weighted_loss

    return forward_step


def _count(microbatch: Microbatch) -> Tensor:
    return torch.tensor(microbatch.row.numel(), dtype=torch.int, device=microbatch.row.device)


class MetricSums:
    """Sums over the tokens of a step, kept on the device until the step ends."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}

    def add(self, loss: Tensor, view: PolicyView, metrics: Scored) -> None:
        log_ratio_N = view.log_ratio.detach()
        per_token = {
            "kl_to_old/mean": log_ratio_N.clamp(-20, 20).exp() - log_ratio_N - 1.0,
            "entropy/update": view.entropy.detach(),
            **metrics,
        }
        self._add("loss", loss.detach())
        self._add("tokens", torch.tensor(view.log_prob.numel(), device=self._device))
        for name, value_N in per_token.items():
            self._add(name, value_N.sum())

    def _add(self, name: str, value: Tensor) -> None:
        total = self._sums.get(name)
        value = value.to(torch.float64)
        self._sums[name] = value if total is None else total + value

    def names(self) -> list[str]:
        return sorted(self._sums)

    def stacked(self) -> Tensor:
        """[number of names] fp64, in the order of ``names``."""
        return torch.stack([self._sums[name] for name in self.names()])
