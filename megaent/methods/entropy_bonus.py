"""Entropy bonus: the plain way to keep a policy uncertain.

Mnih et al. 2016, "Asynchronous Methods for Deep Reinforcement Learning", arXiv:1602.01783, after Williams
and Peng 1991: the loss of a token is lowered by ``coef`` times the entropy of the policy there, with its
gradient, in nats over the whole vocabulary.

Departures: added to GRPO's loss and averaged as its tokens are. For reasoning models coefficients from
1e-3 to 1e-2 are in use. The same term is grpo's ``entropy_coef``.
"""

from __future__ import annotations

from megaent.objective.compose import Part
from megaent.objective.terms import entropy_bonus as bonus

NEUTRAL = ({"coef": 0.0}, {"grpo": {}})
"""Options under which the method is another one, bit for bit."""


def entropy_bonus(*, coef: float = 1e-3) -> Part:
    """A negative ``coef`` lowers the entropy instead."""
    return Part(terms=bonus(coef))
