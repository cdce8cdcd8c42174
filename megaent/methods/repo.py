"""REPO: advantages are scaled by surprisal, so that a step does not cost entropy.

Petrenko et al. 2026, "Entropy-Preserving Reinforcement Learning", arXiv:2603.11682, in its variant REPO-R:

    A > 0    A (1 - zeta log pi), at least 0
    A < 0    A (1 + zeta log pi), at most 0
    zeta     after every step doubled if the entropy is below ``target``, else halved; |zeta| in [1e-4, 0.05]

The form comes from a published digest of the paper and from the page of a third party's implementation
(SkyRL's example of REPO-R, which quotes appendix D.2), as do the bounds of zeta and that the target is the
entropy at the start. Inferred: the first zeta; that halving below ``zeta_min`` changes the sign (the page
says so in a clause), to zeta_min of the other one; that with a negative zeta doubling lowers the entropy. The
paper's ADAPO, an adaptive upper clip, is not here: the size of its step could not be established.

Departures: log pi is the old policy's, as everything here that weighs a token, where the page takes the
latest; the two are the same in the first optimizer step on a batch. The policy term is GRPO's.
"""

from __future__ import annotations

from megaent.objective.compose import Part
from megaent.objective.log_prob_advantage import SurprisalRescale, ZetaByEntropy

NEUTRAL = ({"zeta": 0.0, "adaptive": False}, {"grpo": {}})
"""Options under which the method is another one, bit for bit."""


def repo(
    *,
    zeta: float = 1e-3,
    adaptive: bool = True,
    target: float = 0.0,
    zeta_min: float = 1e-4,
    zeta_max: float = 0.05,
) -> Part:
    """``target`` in nats, 0 for the first step's entropy; it and the bounds belong to ``adaptive``."""
    if not adaptive:
        return Part(shaping=(SurprisalRescale(zeta=zeta),))
    controller = ZetaByEntropy(start_zeta=zeta, low=zeta_min, high=zeta_max, target=target)
    return Part(shaping=(SurprisalRescale(),), controllers=(controller,))
