"""FP8's rounding simulated in Megatron's linear layers: rounded as a card would, multiplied in fp32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from torch import Tensor
from torch.distributed import ProcessGroup

from megaent.actor.precision import Fp8Simulation
from megaent.actor.quantise import Operand, Recipe


class RoundedProduct(torch.autograd.Function):
    """x [T, D] times w [O, D]: [T, O], each of the three products with its operands rounded for it."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, w_OD: Tensor, recipe: Recipe) -> Tensor:
        ctx.save_for_backward(x_TD, w_OD)
        ctx.recipe = recipe
        x = recipe.rounded(Operand(x_TD, along=1), recipe.forward)
        w = recipe.rounded(Operand(w_OD, along=1, is_weight=True), recipe.forward)
        return _multiplied(x, w.T, x_TD.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad_TO,), (x_TD, w_OD), recipe = gradients, ctx.saved_tensors, ctx.recipe
        grad = recipe.rounded(Operand(grad_TO, along=1), recipe.backward)
        w = recipe.rounded(Operand(w_OD, along=0, is_weight=True), recipe.forward)
        grad_x = _multiplied(grad, w, x_TD.dtype)
        grad = recipe.rounded(Operand(grad_TO, along=0), recipe.backward)
        x = recipe.rounded(Operand(x_TD, along=0), recipe.forward)
        return grad_x, _multiplied(grad.T, x, w_OD.dtype), None


def _multiplied(one: Tensor, other: Tensor, dtype: torch.dtype) -> Tensor:
    """Summed in fp32, as tensor cores do, and in fp64 for a model in fp64."""
    wide = torch.promote_types(torch.float32, dtype)
    return (one.to(wide) @ other.to(wide)).to(dtype)


@dataclass(slots=True)
class Rounding:
    """Shared by all simulated layers of an actor, so that a comparison can switch it off."""

    recipe: Recipe
    is_on: bool = True

    @contextmanager
    def off(self) -> Iterator[None]:
        self.is_on = False
        try:
            yield
        finally:
            self.is_on = True


def simulate(model: GPTModel, precision: Fp8Simulation, rounding: Rounding) -> None:
    """Put the rounding into every linear layer of the decoder's rounded layers, in place.

    Embedding, norms, attention itself, a router and the head stay as they are.
    """
    for layer in model.decoder.layers:
        if precision.rounds(layer.layer_number - 1, model.config.num_layers):
            for linear in layer.modules():
                if isinstance(linear, (ColumnParallelLinear, RowParallelLinear)):
                    linear._forward_impl = partial(_product, linear._forward_impl, rounding)


def _product(
    full: Callable[..., Tensor],
    rounding: Rounding,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    sequence_parallel: bool,
    allreduce_dgrad: bool,
    tp_group: ProcessGroup | None,
    **others: object,
) -> Tensor:
    """In place of Megatron's ``_forward_impl``, which a layer calls between its communications."""
    if not rounding.is_on:
        return full(
            input,
            weight,
            bias,
            sequence_parallel=sequence_parallel,
            allreduce_dgrad=allreduce_dgrad,
            tp_group=tp_group,
            **others,
        )
    # Under sequence parallelism a scale belongs to the whole input, as in Transformer Engine.
    if sequence_parallel:
        whole = gather_from_sequence_parallel_region(input, tensor_parallel_output_grad=True, group=tp_group)
    elif allreduce_dgrad:
        whole = copy_to_tensor_model_parallel_region(input, group=tp_group)
    else:
        whole = input
    product = RoundedProduct.apply(whole.flatten(0, -2), weight, rounding.recipe)
    product = product.view(*whole.shape[:-1], -1)
    return product if bias is None else product + bias
