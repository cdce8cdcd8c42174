"""Numbers that are not finite end the run, with what to try."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from megaent.errors import NumericsError
from megaent.types import Metrics


def check_statistics(log_prob_T: Tensor, entropy_T: Tensor) -> None:
    is_bad_T = ~(torch.isfinite(log_prob_T) & torch.isfinite(entropy_T))
    if bool(is_bad_T.any()):
        place = int(is_bad_T.nonzero()[0])
        found = [float(log_prob_T[place]), float(entropy_T[place])]
        raise NumericsError(
            f"the policy's log-prob and entropy of token {place} of the batch are {found}; expected "
            "finite numbers: lower optim.lr or raise the precision"
        )


def check_finite(metrics: Metrics, norms: list[float]) -> None:
    for name, value in [*metrics.items(), *(("grad/norm", norm) for norm in norms)]:
        if not math.isfinite(value):
            raise NumericsError(
                f"{name} is {value}; expected a finite number: lower optim.lr, check the rewards, or resume "
                "from the last checkpoint"
            )
