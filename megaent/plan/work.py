"""What a training step is given to do, and in which way the code does it."""

from __future__ import annotations

from dataclasses import dataclass

PRECISIONS = ("bf16", "fp16", "fp8", "bf16-pure")  # pure: gradients are summed in bf16 too
STACKS = ("megatron", "megaent", "compiled", "eager")
"""Fused kernels with exchanges hidden; the same as megaent runs them, nothing hidden between replicas;
FSDP under torch.compile; FSDP in eager PyTorch."""
HEADS = ("logits", "chunked", "fused")
"""All logits in memory; a chunk of tokens at a time; megaent's tiles, computed again by the backward pass."""
ATTENTION = ("flash", "flash2", "unfused")
"""The newest flash attention of the card, its second version, or scores in memory."""
STATES = ("fp32", "bf16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """``tokens`` of a microbatch are those of one replica, before context ranks share them."""

    tokens: float
    context: float  # tokens a token attends to, were nothing masked: mean of length squared over mean length
    microbatches: int  # of a replica and optimizer step
    optimizer_steps: int = 1
    precision: str = "bf16"
    stack: str = "megatron"
    head: str = "logits"
    attention: str = "flash"
    states: str = "fp32"  # of Adam's moments and master weights
    lora: bool = False

    @property
    def is_fsdp(self) -> bool:
        return self.stack in ("compiled", "eager")

    @property
    def fp8(self) -> bool:
        return self.precision.startswith("fp8")
