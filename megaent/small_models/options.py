"""``model=demo``: the shape of the demonstration's model and how it is warmed up."""

from __future__ import annotations

from dataclasses import dataclass

from megaent.actor.options import ModelOptions
from megaent.options import require, require_positive


@dataclass
class DemoModelOptions(ModelOptions):
    """``model=demo``: a 0.1 M Qwen2 warmed up on teacher traces, made once and cached."""

    path: str = ""  # filled with the cached checkpoint
    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int = 2
    intermediate_size: int = 256
    warmup_steps: int = 330
    warmup_lr: float = 4e-3
    warmup_batch: int = 16
    warmup_seed: int = 0
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(
            "model",
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            warmup_steps=self.warmup_steps,
            warmup_batch=self.warmup_batch,
        )
        require(
            self.hidden_size % (2 * self.num_heads) == 0 and self.num_heads % self.num_kv_heads == 0,
            f"model.num_heads={self.num_heads} must divide model.hidden_size={self.hidden_size} into even "
            f"heads, and model.num_kv_heads={self.num_kv_heads} must divide model.num_heads",
        )
