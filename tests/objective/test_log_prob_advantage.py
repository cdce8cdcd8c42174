"""REPO's advantages and the coefficient that follows the entropy."""

from __future__ import annotations

import pytest
import torch
from support.builders import group, scored, seen

from megaent.objective.log_prob_advantage import SurprisalRescale, ZetaByEntropy


@pytest.mark.parametrize("zeta", [0.0, 0.01, 0.9, 50.0, -0.01, -50.0])
def test_no_advantage_changes_its_sign(zeta: float) -> None:
    batch = scored([group(0, [1.0, 0.0], [6, 7]), group(1, [0.0], [4])])
    advantage = torch.linspace(-1.0, 1.0, batch.num_tokens)
    found = SurprisalRescale(zeta=zeta)(advantage, seen(batch))
    assert bool((found * advantage >= 0).all())
    surprisal = -batch.log_prob_old
    kept = found != 0
    sign = advantage.sign()
    torch.testing.assert_close(found[kept], (advantage * (1 + zeta * sign * surprisal))[kept])


def test_zeta_takes_the_first_entropy_for_its_target() -> None:
    controller = ZetaByEntropy(start_zeta=2e-3)
    state = controller.update(controller.start(), {"entropy/sampled": 0.7})
    assert state == {"zeta": 2e-3, "target": 0.7}
    assert controller.update(state, {"entropy/sampled": 0.7}) == state
    assert controller.update(state, {"entropy/sampled": 0.6})["zeta"] == 4e-3
    assert controller.update(state, {"entropy/sampled": 0.8})["zeta"] == 1e-3


def test_zeta_stays_between_its_bounds_on_either_side() -> None:
    controller = ZetaByEntropy(start_zeta=1e-3, low=1e-3, high=5e-3, target=0.5)
    state, found = controller.start(), []
    for entropy in [0.4] * 4 + [0.6] * 8:
        state = controller.update(state, {"entropy/sampled": entropy})
        found.append(round(state["zeta"] * 1e3, 6))
    assert found == [2, 4, 5, 5, 2.5, 1.25, -1, -2, -4, -5, -5, -5]


@pytest.mark.parametrize("options", [{"start_zeta": 0.0}, {"low": 0.0}, {"target": -1.0}])
def test_a_controller_refuses_what_it_cannot_double(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"zeta|target"):
        ZetaByEntropy(**options)
