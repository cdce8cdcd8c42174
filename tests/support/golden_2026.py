"""Worked cases of the methods of 2025 and 2026 that hold entropy: SIREN, STARE, REPO and PEAR."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate

from support.golden_inputs import experience, numbers, seen, tokens
from support.golden_primitives import Found, Inputs, one_response

from megaent.objective.aggregations import TokenMean
from megaent.objective.log_prob_advantage import SurprisalRescale, ZetaByEntropy
from megaent.objective.phase_entropy import PhaseEntropy
from megaent.objective.self_anchored import TowardsAnchor
from megaent.objective.surprisal import SurprisalWeights, TopSurprisal, batch_mean


def stare(inputs: Inputs) -> Found:
    batch = one_response(len(inputs["logp"]), log_prob_old=inputs["logp"], entropy=inputs["H"])
    chosen = tokens(batch, inputs["adv"])
    weights = {name: inputs[name] for name in ("amplify", "attenuate", "target")}
    rule = TopSurprisal(fraction=inputs["fraction"], weights=SurprisalWeights(**weights))
    return {
        "weight": rule(chosen, seen(batch)).tolist(),
        "entropy": batch_mean(chosen, chosen.entropy),
    }


def pear(inputs: Inputs) -> Found:
    thinking = numbers(inputs["thinking"]).bool()
    batch = experience(inputs["lens"], inputs["correct"], entropy=inputs["H"], in_thinking=thinking)
    piece = PhaseEntropy(alpha=inputs["alpha"], score=inputs["score"], wrong=inputs["wrong"])
    return {"reward": piece(batch.reward, seen(batch)).tolist()}


def repo(inputs: Inputs) -> Found:
    batch = one_response(len(inputs["logp"]), log_prob_old=inputs["logp"])
    return {"adv": SurprisalRescale(zeta=inputs["zeta"])(numbers(inputs["adv"]), seen(batch)).tolist()}


def repo_zeta(inputs: Inputs) -> Found:
    controller = ZetaByEntropy(
        start_zeta=inputs["zeta"], low=inputs["low"], high=inputs["high"], target=inputs["target"]
    )
    states = accumulate(
        inputs["entropy"],
        lambda state, entropy: controller.update(state, {"entropy/sampled": entropy}),
        initial=controller.start(),
    )
    return {"zeta": [controller.coefs(state)["repo_zeta"] for state in states][1:]}


def siren(inputs: Inputs) -> Found:
    batch = replace(experience(inputs["lens"]), nucleus_entropy=numbers(inputs["H"]))
    given = seen(batch, coefs={"siren_anchor": inputs["anchor"], "siren_is_set": 1.0})
    coef_T = TowardsAnchor(coef=inputs["coef_"], quantile=inputs["quantile"])(tokens(batch), given)
    told = given.notes.reduce(given.population)
    return {
        "coef": coef_T.tolist(),
        "mean": told["siren/entropy"],
        "slope": (coef_T * TokenMean()(given)).tolist(),
    }


FAMILIES: dict[str, Callable[[Inputs], Found]] = {
    "siren": siren,
    "stare": stare,
    "repo": repo,
    "repo.zeta": repo_zeta,
    "pear": pear,
}
