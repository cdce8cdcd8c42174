"""Environment variables that choose how the ops run, tried before anything is built."""

from __future__ import annotations

import os

import torch

from megaent.errors import ConfigError
from megaent.ops import logprob_entropy

_VARIABLES = ("MEGAENT_OPS_BACKEND", "MEGAENT_OPS_SIMD", "TRITON_INTERPRET")


def check_ops(dtype: str, device: torch.device) -> None:
    """Raises ConfigError when the ops of these tensors cannot run as the environment says."""
    try:
        logits = torch.zeros(1, 2, dtype=getattr(torch, dtype), device=device)
        logprob_entropy(logits, torch.zeros(1, dtype=torch.int64, device=device))
    except (ValueError, RuntimeError) as error:
        cause = str(error).strip().partition("\n")[0]
        named = ", ".join(f"{name}={os.environ[name]!r}" for name in _VARIABLES if name in os.environ)
        raise ConfigError(
            f"the ops cannot run with {named or 'no variable set'}: {cause}; mend the environment, which a "
            "resumed run has from its command.json"
        ) from error
