"""Length penalty: correct responses longer than their correct siblings earn less.

Arora and Zanette 2025, "Training Language Models to Reason Efficiently", arXiv:2502.04463, and the
authors' code:

    r = correct * (1 - alpha * sigmoid((T - mean) / (std + 1e-7)))

mean and (population) std over the lengths of the group's correct responses; a response cut by the length
limit earns 0. The advantage is the reward minus a group baseline, not divided by the deviation.

Departures: the baseline is the group's mean, where the paper leaves the response itself out (combine with
rloo for that); the policy term is GRPO's. alpha 1 is the code's default; the paper goes from 0.05 to 0.4.
"""

from __future__ import annotations

from megaent.objective.advantages import GroupRelative
from megaent.objective.compose import Part
from megaent.objective.length_rewards import SigmoidLength


def length_penalty(*, alpha: float = 1.0) -> Part:
    """``alpha`` in [0, 1]: how much of the reward length can cost."""
    return Part(
        rewards=(SigmoidLength(alpha=alpha),), suggests=Part(advantage=GroupRelative(normalize=False))
    )
