"""Everybody is compared with fp64 before anybody is timed, on a few rows of the problem that is measured.

The gradient is that of the checked rows alone: with all other cotangents 0 the weight's gradient is a sum of
that many outer products, and need not exist in fp64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from megaent.bench.contender import Contender
from megaent.bench.problems import Problem
from megaent.bench.usual import USUAL
from megaent.errors import NumericsError
from megaent.ops import logprob_entropy

NUM_CHECKED = 8  # rows
FLOOR = 4e-6  # a relative error that is fp32's rounding, whatever plain torch happens to hit
WRONG = 0.05  # relative error of log_prob beyond which a peer is taken to be called in a wrong way
_BLOCK = 16384  # rows of the weight that are taken to fp64 at once

Errors = dict[str, float]


def run_once(
    contender: Contender, inputs: Sequence[Tensor], given: Sequence[Tensor], cotangents: Tensor
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Results of one forward and the gradients of one backward pass."""
    assert contender.compute is not None
    leaves = [x.detach().requires_grad_() for x in inputs]
    outputs = contender.compute(*leaves, *given)
    if contender.is_sum:
        weights = [torch.ones_like(outputs[0])]
    else:
        weights = [c.to(x.dtype) for c, x in zip(cotangents, outputs, strict=False)]
    return outputs, torch.autograd.grad(outputs[: len(weights)], leaves, weights)


class Truth:
    """fp64 for the first, the last and a few rows between."""

    def __init__(self, problem: Problem) -> None:
        num_rows = problem.target.shape[0]
        places = torch.linspace(0, num_rows - 1, min(NUM_CHECKED, num_rows)).long()
        self.rows_K = places.to(problem.target.device)
        self.cotangents = torch.zeros_like(problem.cotangents)
        self.cotangents[:, self.rows_K] = problem.cotangents[:, self.rows_K]
        self.few = problem.rows(self.rows_K)
        self._logits_KV = self._exact_logits()
        self.values = dict(zip(problem.path.outputs, self._exact(self._logits_KV), strict=True))
        self._grad_logits: dict[bool, Tensor] = {}

    def _exact_logits(self) -> Tensor:
        first_K = self.few.inputs[0].double()
        if not self.few.path.from_hidden:
            return first_K
        return torch.cat([first_K @ weight.T for _, weight in self._weight()], dim=1)

    def _exact(self, logits_KV: Tensor) -> tuple[Tensor, ...]:
        path, target_K = self.few.path, self.few.target
        reference_KV = self.few.given[1].double() if path.has_reference else None
        asked = {"extras": path.extras, "reference_logits": reference_KV}
        return path.of(logprob_entropy(logits_KV, target_K, backend="reference", **asked))

    def _weight(self) -> Iterator[tuple[slice, Tensor]]:
        weight_VD = self.few.inputs[1]
        for start in range(0, weight_VD.shape[0], _BLOCK):
            part = slice(start, start + _BLOCK)
            yield part, weight_VD[part].double()

    def grad_logits(self, *, with_entropy: bool) -> Tensor:
        """[K, V]; without entropy, that of log_prob alone."""
        if with_entropy not in self._grad_logits:
            leaf_KV = self._logits_KV.clone().requires_grad_()
            weights = list(self.few.cotangents[: None if with_entropy else 1].double())
            outputs = self._exact(leaf_KV)[: len(weights)]
            self._grad_logits[with_entropy] = torch.autograd.grad(outputs, leaf_KV, weights)[0]
        return self._grad_logits[with_entropy]

    def errors(self, outputs: Sequence[Tensor], grads: Sequence[Tensor], *, with_entropy: bool) -> Errors:
        """Of the checked rows: values relative to the largest exact one or to 1, gradients in norm."""
        found = {}
        for (name, exact_K), mine_K in zip(self.values.items(), outputs, strict=False):
            off_K = (mine_K.detach().double() - exact_K).abs()
            found[name] = float(off_K.max()) / max(1.0, float(exact_K.abs().max()))
        return found | self._gradient_errors(grads, self.grad_logits(with_entropy=with_entropy))

    def _gradient_errors(self, grads: Sequence[Tensor], dz_KV: Tensor) -> Errors:
        """||mine - exact|| / ||exact||"""
        mine_K = grads[0].double()
        if not self.few.path.from_hidden:
            return {"gradient": float((mine_K - dz_KV).norm() / dz_KV.norm())}
        hidden_KD = self.few.inputs[0].double()
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
    """All rows are computed; those of ``truth`` are compared."""
    if contender.is_sum:
        return _errors_of_sum(contender, truth)
    outputs, grads = run_once(contender, inputs, problem.given, truth.cotangents)
    rows_K = truth.rows_K
    chosen, first_K = [x[rows_K] for x in outputs], grads[0][rows_K]
    return truth.errors(chosen, [first_K, *grads[1:]], with_entropy=contender.has_entropy)


def _errors_of_sum(contender: Contender, truth: Truth) -> Errors:
    """Of the checked rows alone. Nothing tells rows apart, so the gradient is not compared."""
    assert contender.compute is not None
    with torch.no_grad():
        mine = float(contender.compute(*truth.few.inputs, *truth.few.given)[0])
    exact = float(truth.values["log_prob"].sum())
    return {"log_prob": abs(mine - exact) / max(1.0, abs(exact))}


def errors_of_torch(truth: Truth) -> Errors:
    """Of torch as it is usually written, in the type of the inputs: the measure of ours."""
    few = truth.few
    usual = Contender("torch eager", USUAL[few.path.name])
    outputs, grads = run_once(usual, few.inputs, few.given, few.cotangents)
    return truth.errors(outputs, grads, with_entropy=True)


def refuse_wrong(contender: Contender, errors: Errors, of_torch: Errors) -> None:
    """Raises NumericsError where one of ours errs more than twice as much as plain torch in the same type."""
    for name, error in errors.items():
        allowed = max(2 * of_torch[name], FLOOR)
        if not error <= allowed:
            raise NumericsError(
                f"{contender.name}: the relative error of {name} is {error:.3g}, allowed are {allowed:.3g} "
                f"(twice that of plain torch, {of_torch[name]:.3g}); nothing is timed"
            )
