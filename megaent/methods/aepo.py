"""AEPO: a second rollout at another temperature pulls the entropy to a target.

"AEPO", arbitrary entropy policy optimisation, arXiv:2510.08141, and the authors' code. The first
``fraction`` of a step's prompts are answered once more, at ``temperature_hot`` while the last step's
entropy was at or below ``target`` and at ``temperature_cold`` above it. Of these responses those with a
positive group-relative advantage take the place of responses of the first rollout, at most
``num_replaced_below`` (``..._above`` the target), and have the advantage 1: REINFORCE on good responses
of a hotter or colder policy.

Departures: replaced responses stay in the batch with weight 0, so the mean is over both rollouts' tokens,
and terms other than the policy's still see them. The entropy is that of the first rollout's tokens under
the old policy, over the whole vocabulary. Before the first step it counts as on target. Whoever takes
part is decided by the order of the batch, the same on every layout.
"""

from __future__ import annotations

from megaent.objective.checks import require
from megaent.objective.compose import Part
from megaent.objective.controllers import SecondTemperature
from megaent.objective.method import SecondRollout
from megaent.objective.second_rollout import Replace, SecondAdvantage


def aepo(
    *,
    target: float = 0.5,
    temperature_hot: float = 1.2,
    temperature_cold: float = 0.8,
    fraction: float = 0.25,
    num_replaced_below: int = 60,
    num_replaced_above: int = 30,
    advantage: float = 1.0,
    normalize: bool = True,
) -> Part:
    """``target`` in nats; ``advantage`` is that of the second rollout's better responses."""
    require(0 < fraction <= 1, "fraction", "lie in (0, 1]", fraction)
    controller = SecondTemperature(
        target=target,
        hot=temperature_hot,
        cold=temperature_cold,
        num_replaced_below=num_replaced_below,
        num_replaced_above=num_replaced_above,
    )
    second = SecondRollout(
        fraction=fraction, num_replaced_below=num_replaced_below, num_replaced_above=num_replaced_above
    )
    return Part(
        advantage=SecondAdvantage(advantage=advantage, normalize=normalize),
        weights=(Replace(),),
        controllers=(controller,),
        second_rollout=second,
    )
