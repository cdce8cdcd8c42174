"""Megatron's data-parallel wrapper, optimizer, and a constant learning rate after a linear warm-up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer.optimizer import MegatronOptimizer
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.transformer_config import TransformerConfig

from megaent.actor.model import PolicyModel
from megaent.actor.optimizer_state import MOMENTS, parts, set_adam_step

_NEVER_CLIPS = 1e30  # Megatron reports the gradient norm only where it clips


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamOptions:
    """Learning rate per optimizer step, AdamW's constants, and the bound of the global gradient norm."""

    lr: float
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    clip_grad: float = 1.0  # 0: no clipping
    warmup_steps: int = 0  # optimizer steps

    def lr_at(self, optimizer_step: int) -> float:
        """Of the optimizer step with this number, counted from 0."""
        return self.lr * min(1.0, (optimizer_step + 1) / max(1, self.warmup_steps))


def wrap_data_parallel(
    models: list[PolicyModel], config: TransformerConfig, *, distributed_optimizer: bool
) -> list[DistributedDataParallel]:
    """Each model chunk in Megatron's gradient buffers; bf16 gradients are summed in fp32."""
    is_bf16 = config.params_dtype == torch.bfloat16
    ddp_config = DistributedDataParallelConfig(
        grad_reduce_in_fp32=is_bf16, use_distributed_optimizer=distributed_optimizer
    )
    chunks = [Float16Module(config, model) if is_bf16 else model for model in models]
    return [
        DistributedDataParallel(config, ddp_config, chunk, disable_bucketing=number > 0)
        for number, chunk in enumerate(chunks)
    ]


def build_optimizer(
    chunks: list[DistributedDataParallel],
    config: TransformerConfig,
    options: AdamOptions,
    *,
    distributed_optimizer: bool,
) -> MegatronOptimizer:
    optimizer = get_megatron_optimizer(
        OptimizerConfig(
            optimizer="adam",
            lr=options.lr,
            weight_decay=options.weight_decay,
            adam_beta1=options.beta1,
            adam_beta2=options.beta2,
            adam_eps=options.eps,
            clip_grad=options.clip_grad or _NEVER_CLIPS,
            bf16=config.params_dtype == torch.bfloat16,
            params_dtype=config.params_dtype,
            use_distributed_optimizer=distributed_optimizer,
        ),
        chunks,
    )
    for part in parts(optimizer):
        if isinstance(part.optimizer, torch.optim.AdamW):
            _fuse(part.optimizer)
    config.finalize_model_grads_func = _finalize
    config.grad_scale_func = None
    return optimizer


def _fuse(adam: torch.optim.AdamW) -> None:
    """One pass over weights, gradients and moments instead of ten; Megatron has no option for it."""
    for group in adam.param_groups:
        group["fused"] = True


def _finalize(model, num_tokens=None, **kwargs) -> None:
    """Megatron's gradient sums without its division: the loss weights carry the normalisation exactly."""
    finalize_model_grads(model, None, **kwargs)


def set_learning_rate(optimizer: MegatronOptimizer, options: AdamOptions, optimizer_step: int) -> float:
    lr = options.lr_at(optimizer_step)
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_mult", 1.0)
        group["weight_decay"] = options.weight_decay * group.get("wd_mult", 1.0)
    return lr


@torch.no_grad()
def reset_state(optimizer: MegatronOptimizer) -> None:
    """Moments and step counts back to zero, as in a new optimizer over the same weights."""
    for part in parts(optimizer):
        for moments in part.optimizer.state.values():
            for name in MOMENTS:
                moments[name].zero_()
    set_adam_step(optimizer, 0)
