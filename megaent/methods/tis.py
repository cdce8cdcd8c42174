"""TIS: the policy term is weighed by how the trainer's probabilities differ from the engine's.

Truncated importance sampling, in the manner of Espeholt et al. 2018, "IMPALA", arXiv:1802.01561, as verl
and TRL use it between a rollout engine and a trainer of the same weights:

    weight = min(pi_old / pi_engine, limit)        a constant; of the token, or of the whole response

Goes with every method but AEPO. ``mode="mask"`` gives weight 0 above ``limit``; ``level="sequence"`` takes
the product over the response.

Departures: the log of a ratio is clamped at 20, as in verl. limit 2 is verl's, TRL has 3. Weights are not
normalised over the batch. Masked sequences stay in the mean.
"""

from __future__ import annotations

from megaent.objective.compose import Part
from megaent.objective.weights import EngineMismatch


def tis(*, level: str = "token", mode: str = "truncate", limit: float = 2.0) -> Part:
    """``level`` token or sequence, ``mode`` truncate or mask; ``limit`` is the paper's C."""
    return Part(weights=(EngineMismatch(level=level, mode=mode, limit=limit),))
