"""``rollout=embedded``: what this engine can be told."""

from __future__ import annotations

from dataclasses import dataclass

from megaent.options import require, require_positive
from megaent.rollout.options import RolloutOptions


@dataclass
class EmbeddedOptions(RolloutOptions):
    """``rollout=embedded``: in this process, batched, with a KV cache."""

    name: str = "embedded"
    batch_size: int = 128  # responses decoded together
    dtype: str = ""  # "" takes the model's

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("rollout", batch_size=self.batch_size)
        require(
            self.dtype in ("", "float32", "bfloat16", "float64"),
            f"rollout.dtype must be float32, bfloat16 or float64, got {self.dtype!r}",
        )
        require(
            self.staleness <= 1,
            f"rollout.staleness must be 0 or 1 with rollout=embedded, got {self.staleness}: it takes no new "
            "weights in the middle of a response, so that more has no effect",
        )
