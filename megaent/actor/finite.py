"""Numbers that are not finite end the run, with what to try."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from megaent.errors import NumericsError
from megaent.types import Metrics


def check_statistics(log_prob_T: Tensor, *entropies: Tensor) -> None:
    """Raises NumericsError for the first token whose log-prob or one of whose entropies is not finite."""
    found_KT = torch.stack([log_prob_T, *entropies])
    is_bad_T = ~found_KT.isfinite().all(0)
    if bool(is_bad_T.any()):
        place = int(is_bad_T.nonzero()[0])
        raise NumericsError(
            f"the policy's log-prob and entropy of token {place} of the batch are "
            f"{found_KT[:, place].tolist()}; expected finite numbers: lower optim.lr or raise the precision"
        )


def check_finite(metrics: Metrics, norms: list[float]) -> None:
    for name, value in [*metrics.items(), *(("grad/norm", norm) for norm in norms)]:
        if not math.isfinite(value):
            raise NumericsError(
                f"{name} is {value}; expected a finite number: lower optim.lr, check the rewards, or resume "
                "from the last checkpoint"
            )
