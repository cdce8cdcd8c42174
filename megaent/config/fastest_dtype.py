"""``model.dtype=auto``: float32 or bfloat16, whichever this machine's processor multiplies faster.

Processors without instructions for bfloat16 emulate it, at a fraction of float32's speed. It is measured
once, when a run begins; what was found stands in the run's configuration, so that a resumed run keeps it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from megaent.config.composition import compose_config
from megaent.errors import ConfigError

if TYPE_CHECKING:
    from megaent.run.config import TrainConfig

AUTO = "auto"
_CHOICES = ("float32", "bfloat16")
_SIZE = 256  # rows, columns and depth of the product
_ROUNDS = 3

Measure = Callable[[Sequence[str]], Mapping[str, float]]


def settle_dtype(
    config: TrainConfig,
    text: str,
    overrides: Sequence[str],
    *,
    say: Callable[[str], None],
    measure: Measure | None = None,
) -> tuple[TrainConfig, str, list[str]]:
    """The same with the dtype that ``auto`` came to, said in a line; unchanged where one is named.

    Raises ConfigError on a GPU, where products of this size tell little.
    """
    if config.model.dtype != AUTO:
        return config, text, list(overrides)
    _require_processor(config.device)
    seconds = (measure or product_seconds)(_CHOICES)
    dtype = faster(seconds)
    told = ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in seconds.items())
    say(f"model.dtype=auto is {dtype} here: a matrix product takes {told}")
    kept = [word for word in overrides if word.split("=", 1)[0].lstrip("+") != "model.dtype"]
    settled = [*kept, f"model.dtype={dtype}"]
    return *compose_config(settled), settled


def require_named_dtype(config: TrainConfig, what: str) -> None:
    """Raises ConfigError for ``auto`` where it would leave open what is compared."""
    if config.model.dtype == AUTO:
        raise ConfigError(
            f"model.dtype=auto is for `megaent train`, which measures it when a run begins; {what} needs "
            "model.dtype=float32, bfloat16 or float64"
        )


def faster(seconds: Mapping[str, float]) -> str:
    """The name of the smallest; of equals the first."""
    return min(seconds, key=lambda name: seconds[name])


def product_seconds(names: Sequence[str]) -> dict[str, float]:
    """The fastest of some products of each, taken in turn, after one that is not counted."""
    import torch

    matrices = {name: torch.randn(_SIZE, _SIZE).to(getattr(torch, name)) for name in names}
    best = dict.fromkeys(names, float("inf"))
    for number in range(1 + _ROUNDS):
        for name, matrix in matrices.items():
            began = time.perf_counter()
            torch.mm(matrix, matrix)
            taken = time.perf_counter() - began
            best[name] = min(best[name], taken) if number else best[name]
    return best


def _require_processor(device: str) -> None:
    from megaent.actor.parallel import resolve_device

    if resolve_device(device).type != "cpu":
        raise ConfigError(
            "model.dtype=auto compares float32 and bfloat16 on processors; on a GPU give "
            "model.dtype=bfloat16 or model.dtype=float32"
        )
