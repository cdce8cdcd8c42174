"""The newest weights, under their Hugging Face names, from the actor's shards into the engine."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from megaent.rollout.engine import RolloutEngine
from megaent.types import Metrics


def publish(
    named_tensors: Iterable[tuple[str, Tensor]], engine: RolloutEngine | None, version: int
) -> Metrics:
    """Stream every weight to ``engine``; ranks without one take part in the gathering and drop theirs.

    A collective. The engine takes all tensors or reports the first that does not fit (EngineError). What it
    tells of their way comes back, on its rank.
    """
    if engine is not None:
        return engine.receive_weights(named_tensors, version)
    for _ in named_tensors:
        pass
    return {}
