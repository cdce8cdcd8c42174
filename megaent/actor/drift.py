"""How far a precision below ``model.dtype`` moves log-probabilities, measured by computing in both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from megaent.actor.precision import Fp8Simulation, Precision, Quantised
from megaent.actor.quantise import RECIPES
from megaent.actor.simulated_linear import Rounding, simulate
from megaent.errors import NumericsError
from megaent.types import Metrics, Replicas


class Drift:
    """The precision of an actor's models: put into them, and taken out for a comparison."""

    def __init__(self, models: Sequence[GPTModel], config: TransformerConfig, precision: Precision) -> None:
        self._config, self._precision = config, precision
        self._rounding = None
        if isinstance(precision, Fp8Simulation):
            self._rounding = Rounding(RECIPES[precision.recipe])
            for model in models:
                simulate(model, precision, self._rounding)

    @contextmanager
    def without(self) -> Iterator[None]:
        """Everything in ``model.dtype`` for the length of a block."""
        if self._rounding is not None:
            with self._rounding.off():
                yield
            return
        # Megatron asks its configuration at every forward pass.
        fp8, fp4 = self._config.fp8, self._config.fp4
        self._config.fp8 = self._config.fp4 = None
        try:
            yield
        finally:
            self._config.fp8, self._config.fp4 = fp8, fp4

    def metrics(self, differences_N: Tensor, replicas: Replicas) -> Metrics:
        """``precision/drift_mean_abs`` and ``…_max``, nats. Raises NumericsError above the limit."""
        size_N = differences_N.double().abs()
        total, count = replicas.sum(torch.stack([size_N.sum(), torch.tensor(float(size_N.numel())).double()]))
        largest = replicas.max(size_N.amax() if size_N.numel() else torch.zeros((), dtype=torch.float64))
        mean = float(total / count) if count else 0.0
        self._require_within_limit(mean)
        return {"precision/drift_mean_abs": mean, "precision/drift_max": float(largest)}

    def _require_within_limit(self, mean: float) -> None:
        limit = self._precision.drift_limit if isinstance(self._precision, Quantised) else 0.0
        if limit and not mean <= limit:
            raise NumericsError(
                f"precision={self._precision.name} moves log-probabilities by {mean:.2e} nats in the mean, "
                f"above precision.drift_limit={limit:.2e}; keep more layers full (precision.full_layers), "
                "take another precision.recipe, or raise the limit"
            )
