"""Everybody is compared with fp64 before anybody is timed, on a few rows of the problem that is measured.

The gradient is that of the checked rows alone: with all other cotangents 0 the weight's gradient is a sum of
that many outer products, and need not exist in fp64.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from megaent.bench.contender import Contender
from megaent.bench.problems import Problem
from megaent.errors import NumericsError
from megaent.ops import logprob_entropy

NUM_CHECKED = 8  # rows
FLOOR = 4e-6  # a relative error that is fp32's rounding, whatever plain torch happens to hit
WRONG = 0.05  # relative error of log_prob beyond which a peer is taken to be called in a wrong way
_BLOCK = 16384  # rows of the weight that are taken to fp64 at once

Errors = dict[str, float]


def run_once(
    contender: Contender, inputs: Sequence[Tensor], target_N: Tensor, cotangents: Tensor
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Results of one forward and the gradients of one backward pass."""
    assert contender.compute is not None
    leaves = [x.detach().requires_grad_() for x in inputs]
    outputs = contender.compute(*leaves, target_N)
    if contender.is_sum:
        weights = [torch.ones_like(outputs[0])]
    else:
        weights = [c.to(x.dtype) for c, x in zip(cotangents, outputs, strict=False)]
    return outputs, torch.autograd.grad(outputs, leaves, weights)


class Truth:
    """fp64 for the first, the last and a few rows between."""

    def __init__(self, problem: Problem) -> None:
        num_rows = problem.target.shape[0]
        places = torch.linspace(0, num_rows - 1, min(NUM_CHECKED, num_rows)).long()
        self.rows_K = places.to(problem.target.device)
        self._problem = problem
        self._logits_KV = self._exact_logits()
        self.cotangents = torch.zeros_like(problem.cotangents)
        self.cotangents[:, self.rows_K] = problem.cotangents[:, self.rows_K]
        result = logprob_entropy(self._logits_KV, problem.target[self.rows_K], backend="reference")
        self.values = {"log_prob": result.log_prob, "entropy": result.entropy}

    def _exact_logits(self) -> Tensor:
        first_K = self._problem.inputs[0][self.rows_K].double()
        if self._problem.path == "logits":
            return first_K
        return torch.cat([first_K @ weight.T for _, weight in self._weight()], dim=1)

    def _weight(self) -> Iterator[tuple[slice, Tensor]]:
        weight_VD = self._problem.inputs[1]
        for start in range(0, weight_VD.shape[0], _BLOCK):
            part = slice(start, start + _BLOCK)
            yield part, weight_VD[part].double()

    @functools.cache  # noqa: B019  as long-lived as the case
    def grad_logits(self, *, with_entropy: bool) -> Tensor:
        """[K, V] of the checked rows; without entropy, that of log_prob alone."""
        leaf_KV = self._logits_KV.clone().requires_grad_()
        result = logprob_entropy(leaf_KV, self._problem.target[self.rows_K], backend="reference")
        outputs = (result.log_prob, result.entropy) if with_entropy else (result.log_prob,)
        weights = [c[self.rows_K].double() for c in self.cotangents[: len(outputs)]]
        return torch.autograd.grad(outputs, leaf_KV, weights)[0]

    def gradient_errors(self, grads: Sequence[Tensor], *, with_entropy: bool) -> Errors:
        """||mine - exact|| / ||exact|| of the first input's checked rows and, if there is one, the weight."""
        dz_KV, mine_K = self.grad_logits(with_entropy=with_entropy), grads[0][self.rows_K].double()
        if self._problem.path == "logits":
            return {"gradient": float((mine_K - dz_KV).norm() / dz_KV.norm())}
        hidden_KD = self._problem.inputs[0][self.rows_K].double()
        exact_KD, off, whole = torch.zeros_like(hidden_KD), 0.0, 0.0
        for part, weight in self._weight():
            exact_KD += dz_KV[:, part] @ weight
            exact = dz_KV[:, part].T @ hidden_KD
            off += float((grads[1][part].double() - exact).square().sum())
            whole += float(exact.square().sum())
        return {
            "gradient": float((mine_K - exact_KD).norm() / exact_KD.norm()),
            "gradient of weight": math.sqrt(off / whole),
        }


def errors_of(contender: Contender, problem: Problem, inputs: Sequence[Tensor], truth: Truth) -> Errors:
    """Values relative to the largest exact one or to 1 nat; gradients in norm."""
    if contender.is_sum:
        return _errors_of_sum(contender, problem, truth)
    outputs, grads = run_once(contender, inputs, problem.target, truth.cotangents)
    errors = {}
    for (name, exact_K), mine_N in zip(truth.values.items(), outputs, strict=False):
        off_K = (mine_N.detach()[truth.rows_K].double() - exact_K).abs()
        errors[name] = float(off_K.max()) / max(1.0, float(exact_K.abs().max()))
    return errors | truth.gradient_errors(grads, with_entropy=contender.has_entropy)


def _errors_of_sum(contender: Contender, problem: Problem, truth: Truth) -> Errors:
    """Of the checked rows' sum. Nothing tells rows apart, so the gradient is not compared."""
    assert contender.compute is not None
    few = [problem.inputs[0][truth.rows_K], *problem.inputs[1:]]
    with torch.no_grad():
        mine = float(contender.compute(*few, problem.target[truth.rows_K])[0])
    exact = float(truth.values["log_prob"].sum())
    return {"log_prob": abs(mine - exact) / max(1.0, abs(exact))}


def refuse_wrong(contender: Contender, errors: Errors, errors_of_torch: Errors) -> None:
    """Raises NumericsError where one of ours errs more than twice as much as plain torch in the same type."""
    for name, error in errors.items():
        allowed = max(2 * errors_of_torch[name], FLOOR)
        if not error <= allowed:
            raise NumericsError(
                f"{contender.name}: the relative error of {name} is {error:.3g}, allowed are {allowed:.3g} "
                f"(twice that of plain torch, {errors_of_torch[name]:.3g}); nothing is timed"
            )
