"""Worked cases of the primitives and of the baselines: the inputs of a case to what the pieces make of them.

A family takes the inputs of a case and gives every quantity it knows; the runner compares those that the
case expects. Inputs that a case leaves out have the defaults of the method.
"""

from __future__ import annotations

from collections.abc import Callable

from support.golden_inputs import experience, flat, numbers, seen, tokens, view
from support.golden_primitives import FAMILIES as PRIMITIVES
from support.golden_primitives import Found, Inputs, one_response, ratio_view
from torch import Tensor

from megaent.methods.adaptive_entropy import adaptive_entropy
from megaent.methods.aepo import aepo
from megaent.methods.archer import archer
from megaent.objective.advantages import (
    BatchWhitened,
    GroupRelative,
    LeaveOneOut,
    LengthWeighted,
    QuantileBaseline,
)
from megaent.objective.aggregations import TokenMean
from megaent.objective.bounds import EntropyCoefficient, is_high_entropy, response_quantile
from megaent.objective.cores import Unclipped
from megaent.objective.covariance import DropFromBand, HighestCovariance, covariance
from megaent.objective.entropy_advantage import EntropyAdvantage
from megaent.objective.length_rewards import Overlong, SigmoidLength
from megaent.objective.method import Advantage, Loss, Term
from megaent.objective.sampling import teaches
from megaent.objective.select import quantile
from megaent.objective.terms import KL
from megaent.objective.weights import EngineMismatch, EntropyChange, HighEntropyOnly
from megaent.types import Experience

# ---------------------------------------------------------------- rewards and advantages


def _advantage(piece: Advantage) -> Callable[[Inputs], Found]:
    """One group of ``rewards``."""

    def family(inputs: Inputs) -> Found:
        rewards = numbers(inputs["rewards"])
        batch = experience(inputs.get("lens") or [1] * rewards.numel(), rewards)
        return {"adv": piece(rewards, seen(batch)).tolist()}

    return family


def grpo(inputs: Inputs) -> Found:
    assert inputs.get("ddof", 1) == 1, "the deviation is the sample one"
    return _advantage(GroupRelative(eps=inputs.get("eps", 1e-6)))(inputs)


def _whitened(piece: BatchWhitened) -> Callable[[Inputs], Found]:
    def family(inputs: Inputs) -> Found:
        rows, lengths = inputs["groups"], inputs["lens"]
        owners = [place for place, row in enumerate(rows) for _ in row]
        batch = experience(lengths, flat(rows), owners)
        per_response = piece(batch.reward, seen(batch)).tolist()
        width = max(lengths)
        return {
            "adv": [[a] * n + [0.0] * (width - n) for a, n in zip(per_response, lengths, strict=True)],
            "mask": [[1.0] * n + [0.0] * (width - n) for n in lengths],
        }

    return family


def qae(inputs: Inputs) -> Found:
    """Every list among the inputs is a group; before the division by the deviation."""
    piece = QuantileBaseline(quantile=inputs.get("K", 0.4), normalize=False)
    found: Found = {}
    for name, values in inputs.items():
        if isinstance(values, list):
            rewards = numbers(values)
            batch = experience([1] * rewards.numel(), rewards)
            short = "" if name == "rewards" else f"{name}_"
            found[f"{short}adv"] = piece(rewards, seen(batch)).tolist()
            found[f"{short}baseline"] = float(piece.baseline(rewards, batch)[0])
    return found


def dapo_overlong(inputs: Inputs) -> Found:
    batch = experience(inputs["lens"], inputs.get("rewards"))
    piece = Overlong(
        max_length=inputs.get("max_len", 20480),
        buffer=inputs.get("buf", 4096),
        factor=inputs.get("factor", 1.0),
    )
    return {"reward": piece(batch.reward, seen(batch)).tolist()}


def dapo_dynamic_sampling(inputs: Inputs) -> Found:
    return {"keep": [teaches(row) for row in inputs["groups"]]}


def arora(inputs: Inputs) -> Found:
    correct = [value > 0 for value in inputs["acc"]]
    cut = inputs.get("truncated")
    batch = experience(inputs["lens"], inputs["acc"], inputs.get("groups"), correct=correct, truncated=cut)
    return {"reward": SigmoidLength(alpha=inputs.get("alpha", 1.0))(batch.reward, seen(batch)).tolist()}


# ---------------------------------------------------------------- tokens that are chosen or weighed


def _places(is_chosen: Tensor) -> list[int]:
    return is_chosen.nonzero()[:, 0].tolist()


def _scored_twice(inputs: Inputs) -> Experience:
    return one_response(
        len(inputs["adv"]), log_prob_old=inputs.get("old", inputs["logp"]), mask=inputs.get("mask")
    )


def kl_cov(inputs: Inputs) -> Found:
    """As published: the current policy's tokens, all of them."""
    batch = one_response(
        len(inputs["adv"]), log_prob_old=inputs.get("old", inputs["logp"]), mask=inputs.get("mask")
    )
    rule = HighestCovariance(coef=inputs.get("coef", 1.0), fraction=inputs.get("ratio", 2e-3), scope="micro")
    chosen = tokens(batch, inputs["adv"], inputs["logp"])
    term = Term(name="kl_cov", quantity=KL(estimator="abs", anchor="old"), coef=rule)
    loss, _ = Loss(core=Unclipped(), terms=(term,))(view(batch, inputs["adv"], inputs["logp"]))
    marked = HighestCovariance(fraction=rule.fraction)(chosen, None)
    return {"cov": covariance(chosen).tolist(), "selected": _places(marked), "loss": loss.tolist()}


def clip_cov(inputs: Inputs) -> Found:
    batch = one_response(
        len(inputs["adv"]), log_prob_old=inputs.get("old", inputs["logp"]), mask=inputs.get("mask")
    )
    rule = DropFromBand(
        low=inputs.get("lb", 1.0),
        high=inputs.get("ub", 5.0),
        fraction=inputs.get("ratio", 2e-4),
        clip_low=inputs.get("eps_low", 1.0),
        clip_high=inputs.get("eps_high", 1.0),
        scope="micro",
    )
    chosen = tokens(batch, inputs["adv"], inputs["logp"])
    return {
        "cov": covariance(chosen).tolist(),
        "candidates": _places(rule.candidates(chosen)),
        "n_detached": int((rule(chosen, None) == 0).sum()),
    }


def forking(inputs: Inputs) -> Found:
    batch = one_response(len(inputs["H"]), entropy=inputs["H"], mask=inputs.get("mask"))
    rule = HighEntropyOnly(fraction=inputs.get("rho", 0.2))
    chosen = tokens(batch)
    return {
        "threshold": float(quantile(chosen, chosen.entropy, 1.0 - rule.fraction)[0]),
        "mask": (rule(chosen, seen(batch)) * batch.mask).tolist(),
    }


def entropy_advantage(inputs: Inputs) -> Found:
    batch = one_response(len(inputs["H"]), entropy=inputs["H"])
    piece = EntropyAdvantage(alpha=inputs.get("alpha", 0.4), kappa=inputs.get("kappa", 2.0))
    return {"adv": piece(numbers(inputs["adv"]), seen(batch)).tolist()}


def steer(inputs: Inputs) -> Found:
    old = numbers(inputs.get("p_old") or inputs["p"]).log()
    batch = one_response(len(inputs["p"]), log_prob_old=old, entropy=inputs["H"])
    chosen = tokens(batch, inputs["adv"], numbers(inputs["p"]).log())
    rule = EntropyChange(w_min=inputs.get("w_min", 0.8), scope="micro")
    linear = EntropyChange(form="linear", linear_low=0.8, linear_high=1.2, scope="micro")
    return {
        "omega": rule.omega(chosen).tolist(),
        "exp": rule(chosen, None).tolist(),
        "linear_0p8_1p2": linear(chosen, None).tolist(),
    }


def tis(inputs: Inputs) -> Found:
    old, engine = inputs["logp_train_old"], inputs["logp_rollout"]
    batch = one_response(len(old), log_prob_old=old, log_prob_engine=engine, mask=inputs.get("mask"))
    rule = EngineMismatch(
        level=inputs.get("level", "token"), mode=inputs.get("mode", "truncate"), limit=inputs.get("C", 2.0)
    )
    return {"w": rule(tokens(batch), seen(batch)).tolist()}


def archer_loss(inputs: Inputs) -> Found:
    adv = inputs.get("adv") or [1.0] * len(inputs["H"])
    batch = one_response(len(inputs["H"]), entropy=inputs["H"])
    q = inputs.get("quantile", 0.8)
    core = archer(
        quantile=q,
        clip_low_entropy=inputs.get("low_clip", 0.2),
        clip_high_entropy=inputs.get("high_clip", 0.5),
    ).core
    assert core is not None, "Archer insists on its core"
    old = tokens(batch, adv)
    pg_loss, _ = core(ratio_view(inputs["log_ratio"], adv, core.bounds(old)))
    given = {
        "low_entropy": inputs.get("low_kl_coef", 1e-3),
        "high_entropy": inputs.get("high_kl_coef", 0.0),
        "quantile": q,
    }
    per_token = EntropyCoefficient(**given, mean_over="all")(old, seen(batch))
    scaled = EntropyCoefficient(**given, mean_over="low")(old, seen(batch))
    kl_T = numbers(inputs.get("kl", 0.0)).expand_as(scaled)
    return {
        "q80": float(response_quantile(old, old.entropy, q)[0]),
        "high": is_high_entropy(old, q).long().tolist(),
        "pg_loss": pg_loss.tolist(),
        "kl_coef": per_token.tolist(),
        "official_kl_term": float((TokenMean()(seen(batch)) * scaled * kl_T).sum()),
    }


# ---------------------------------------------------------------- controllers


def skywork(inputs: Inputs) -> Found:
    names = {"target": "target", "delta": "delta", "low": "lo", "high": "hi", "start_coef": "init"}
    part = adaptive_entropy(**{name: inputs[key] for name, key in names.items() if key in inputs})
    (controller,) = part.controllers
    state, pairs = controller.start(), []
    for value in inputs["entropy"]:
        state = controller.update(state, {"entropy/sampled": value})
        pairs.append([state["coef"], int(state["is_on"])])
        assert controller.coefs(state) == {"adaptive_entropy": state["coef"] * state["is_on"]}
    return {"coef_and_enabled": pairs}


def aepo_temperature(inputs: Inputs) -> Found:
    names = {"target": "target", "temperature_hot": "T_high", "temperature_cold": "T_low"}
    part = aepo(**{name: inputs[key] for name, key in names.items() if key in inputs})
    (controller,) = part.controllers
    states = [controller.update(controller.start(), {"aepo/entropy": value}) for value in inputs["H"]]
    return {"T": [controller.coefs(state)["second_temperature"] for state in states]}


FAMILIES: dict[str, Callable[[Inputs], Found]] = PRIMITIVES | {
    "grpo": grpo,
    "drgrpo": _advantage(GroupRelative(normalize=False)),
    "rloo": _advantage(LeaveOneOut()),
    "opo": _advantage(LengthWeighted()),
    "rfpp": _whitened(BatchWhitened()),
    "rfpp_baseline": _whitened(BatchWhitened(minus_group_mean=True)),
    "qae": qae,
    "dapo.overlong": dapo_overlong,
    "dapo.dynamic_sampling": dapo_dynamic_sampling,
    "arora": arora,
    "klcov": kl_cov,
    "clipcov": clip_cov,
    "fork8020": forking,
    "entadv": entropy_advantage,
    "steer": steer,
    "tis": tis,
    "archer": archer_loss,
    "skywork": skywork,
    "aepo": aepo_temperature,
}
