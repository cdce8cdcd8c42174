"""Worked cases of SENT, LESS and ETR: the inputs of a case to what our pieces make of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from support.golden_ceeh_egrc import Case, given
from support.golden_inputs import experience, numbers, rows_of, seen, tokens, view
from support.views import changed
from torch import Tensor

from megaent.evaluation.efficiency import (
    accuracy_efficiency_score,
)
from megaent.methods.sent import sent
from megaent.objective.advantages import GroupRelative
from megaent.objective.consolidation import LowEntropyCovariance
from megaent.objective.entropy_trend import EntropyTrend, step_entropies, top_entropy
from megaent.objective.method import Loss
from megaent.objective.segment_shaping import SegmentSupport
from megaent.objective.semantic_entropy import cluster_probabilities, curriculum_stages, semantic_entropy

# ---------------------------------------------------------------- SENT


def sent_se(inputs: Case) -> Case:
    answers = ["" if answer is None else str(answer) for answer in inputs["answers"]]
    weight = inputs.get("seq_logp")
    lengths = inputs.get("lens") or inputs.get("lengths")
    if weight is not None and lengths is not None:
        weight = [total / length for total, length in zip(weight, lengths, strict=True)]
    return {"H": semantic_entropy(answers, weight), "p": cluster_probabilities(answers, weight)}


def sent_curriculum(inputs: Case) -> Case:
    table = dict(zip(inputs["ids"], inputs["H"], strict=True))
    stages = curriculum_stages(
        table, inputs.get("stages", 2), drop_uniform=bool(inputs.get("drop_uniform", False))
    )
    return {"stages": stages}


def _sent_batch(inputs: Case, old: Sequence[float]) -> Any:
    return experience(
        [len(old)],
        entropy=inputs["H"],
        log_prob_old=old,
        log_prob_ref=inputs.get("ref"),
        mask=inputs.get("mask"),
    )


def sent_select(inputs: Case) -> Case:
    batch = _sent_batch(inputs, inputs["logp"])
    rule = LowEntropyCovariance(
        **given(inputs, low_frac="low_frac", cov_ratio="cov_ratio", mean_over="cov_mean")
    )
    chosen = rule(tokens(batch, inputs["adv"]))
    low = chosen.low.nonzero()[:, 0].tolist()
    by_entropy = sorted(low, key=lambda place: (inputs["H"][place], place))
    return {
        "low": low,
        "cov_of_low_in_entropy_order": [chosen.covariance[place].item() for place in by_entropy],
        "high_cov": chosen.top.nonzero()[:, 0].tolist(),
        "low_cov": chosen.bottom.nonzero()[:, 0].tolist(),
    }


def _sent_loss(inputs: Case, options: Mapping[str, Any]) -> tuple[Tensor, Case, float]:
    """[N] token losses, metrics, mean loss; the coefficients come from the current policy, as published."""
    part = sent(
        scope="micro",
        stages=1,
        **options,
        **given(inputs, low_frac="low_frac", cov_ratio="cov_ratio", anchor="anchor", kl="kl"),
    )
    assert part.suggests is not None, "SENT suggests its policy term"
    assert part.suggests.core is not None, "SENT suggests its policy term"
    batch = _sent_batch(inputs, inputs["old"])
    low_T, high_T = part.suggests.core.bounds(tokens(batch, inputs["adv"]))
    policy = view(batch, inputs["adv"], inputs["logp"], clip=(low_T, high_T))
    needed = {term.name: term.coef(tokens(batch, inputs["adv"]), None) for term in part.terms}
    loss_N, metrics = Loss(core=part.suggests.core, terms=part.terms)(changed(policy, coefs=needed))
    return loss_N, metrics, loss_N[batch.mask].mean().item()


def sent_loss_paper(inputs: Case) -> Case:
    eps = inputs.get("eps", 0.2)
    options = given(inputs, beta_low="beta_low", beta_high="beta_high")
    loss_N, metrics, mean = _sent_loss(inputs, {"clip_low": eps, "clip_high": eps, **options})
    beta_N = metrics.get("hold_low_entropy/coef", torch.zeros_like(loss_N))
    return {"beta": beta_N.tolist(), "token_loss": loss_N.tolist(), "loss": mean}


def sent_loss_code(inputs: Case) -> Case:
    coef = inputs.get("ppo_kl_coef", 0.1)
    ref_coef = inputs.get("ref_kl_coef", 1e-3) if inputs.get("ref") is not None else 0.0
    options = {"form": "released", "beta_low": 0.5 * coef, "beta_high": 2.0 * coef, "kl_coef": ref_coef}
    loss_N, metrics, mean = _sent_loss(inputs, options)
    extra_N = metrics.get("hold_low_entropy/coef", torch.zeros_like(loss_N))
    return {"extra_coef": extra_N.tolist(), "token_loss": loss_N.tolist(), "loss": mean}


# ---------------------------------------------------------------- LESS


def less(inputs: Case) -> Case:
    group = inputs["group"]
    lengths = [len(row["tok"]) for row in group]
    names = sorted({name for row in group for name in row["tok"]}, key=str)
    number_of = {name: number for number, name in enumerate(names)}
    batch = experience(
        lengths,
        [row["acc"] for row in group],
        token=[number_of[name] for row in group for name in row["tok"]],
        entropy=[value for row in group for value in row["H"]],
    )
    options = given(inputs, min_length="mu", quantile="q")
    released = SegmentSupport(mode="released", **options)
    clean = SegmentSupport(mode="clean", **options)
    advantage_T = GroupRelative()(batch.reward, seen(batch))[batch.owner]
    linked = [pair for group in released.groups(seen(batch)) for pair in released.patterns(group).items()]
    return {
        "multiplier": rows_of(released.multipliers(seen(batch))[0], lengths),
        "multiplier_clean": rows_of(clean.multipliers(seen(batch))[0], lengths),
        "patterns": {
            " ".join(str(names[token]) for token in pattern): {str(r): at for r, at in places.items()}
            for pattern, places in linked
        },
        "adv": rows_of(released(advantage_T, seen(batch)), lengths),
        "adv_clean": rows_of(clean(advantage_T, seen(batch)), lengths),
    }


# ---------------------------------------------------------------- ETR


def _paper_trend(inputs: Case) -> EntropyTrend:
    return EntropyTrend(**given(inputs, coef="lambda|lam", gamma="gamma", limit="clip_r_ent"))


def _released_trend(inputs: Case) -> EntropyTrend:
    published: Case = {"fall_weight": 0.4, "rise_weight": 0.8, "gamma": 0.99}
    options = given(
        inputs, coef="lambda|lam", fall_weight="alpha", rise_weight="beta", gamma="gamma", limit="clip_r_ent"
    )
    return EntropyTrend(**(published | options))


def _rewards(piece: EntropyTrend, trend: float) -> tuple[float, float]:
    """Of a correct and of a wrong response."""
    made_S = piece.rewards(numbers([trend, trend]), torch.tensor([True, False]))
    return made_S[0].item(), made_S[1].item()


def etr_paper(inputs: Case) -> Case:
    piece = _paper_trend(inputs)
    trend = piece.trend(inputs["H"])
    correct, wrong = _rewards(piece, trend)
    return {
        "R_entropy": trend,
        "closed_form": trend,
        "reward_correct": correct,
        "reward_correct_lambda_0p005": _rewards(replace(piece, coef=0.005), trend)[0],
        "reward_wrong": wrong,
    }


def etr_code(inputs: Case) -> Case:
    piece = _released_trend(inputs)
    trend = piece.trend(inputs["H"])
    correct, wrong = _rewards(piece, trend)
    return {"R_entropy": trend, "reward_correct": correct, "reward_wrong": wrong}


def etr_both_forms(inputs: Case) -> Case:
    """A trace, given or a zigzag of ``n`` steps around ``base``, under the paper's and the released form."""
    trace = inputs.get("H")
    if trace is None:
        base, swing = inputs.get("base", 0.5), inputs.get("amplitude", inputs.get("amp", 0.05))
        count = inputs.get("n", inputs.get("steps", 200))
        trace = [base + (swing if step % 2 else -swing) for step in range(count)]
    paper_piece = _paper_trend(_without(inputs, "gamma") if _is_released(inputs) else inputs)
    released_piece = _released_trend(inputs if _is_released(inputs) else _without(inputs, "gamma"))
    paper, released = paper_piece.trend(trace), released_piece.trend(trace)
    paper_reward, released_reward = _rewards(paper_piece, paper)[0], _rewards(released_piece, released)[0]
    chosen, reward = (released, released_reward) if _is_released(inputs) else (paper, paper_reward)
    return {
        "R_entropy": chosen,
        "reward": reward,
        "reward_correct": reward,
        "reward_wrong": -1.0,
        **dict.fromkeys(("paper", "R_paper", "R_entropy_paper"), paper),
        **dict.fromkeys(("code", "released", "R_code", "R_released", "R_entropy_code"), released),
        **dict.fromkeys(("paper_reward", "reward_paper", "reward_correct_paper"), paper_reward),
        **dict.fromkeys(
            ("code_reward", "reward_code", "reward_released", "reward_correct_code"), released_reward
        ),
    }


def _is_released(inputs: Case) -> bool:
    return "alpha" in inputs or "beta" in inputs


def _without(inputs: Case, name: str) -> Case:
    return {key: value for key, value in inputs.items() if key != name}


def etr_steps(inputs: Case) -> Case:
    entropy_L = numbers(inputs["H_tok"])
    closes_L = torch.tensor([bool(closes) for closes in inputs["is_break"]], dtype=torch.bool)
    return {
        "released_drop_tail": step_entropies(entropy_L, closes_L, keep_tail=False),
        "recommended_keep_tail": step_entropies(entropy_L, closes_L, keep_tail=True),
    }


def etr_top5_entropy(inputs: Case) -> Case:
    log_prob = numbers(inputs["top5_logp"])
    entropy_T = top_entropy(log_prob.reshape(-1, log_prob.shape[-1]))
    return {"H": entropy_T.item() if log_prob.ndim == 1 else entropy_T.tolist()}


def etr_aes(inputs: Case) -> Case:
    made = [accuracy_efficiency_score(acc, acc_b, L, L_b) for acc, acc_b, L, L_b in inputs["rows"]]
    return {"aes": made}


FAMILIES: dict[str, Callable[[Case], Case]] = {
    "sent.se": sent_se,
    "sent.curriculum": sent_curriculum,
    "sent.select": sent_select,
    "sent.loss.paper": sent_loss_paper,
    "sent.loss.code": sent_loss_code,
    "less": less,
    "etr.paper": etr_paper,
    "etr.code": etr_code,
    "etr.oscillation": etr_both_forms,
    "etr.zigzag_drift": etr_both_forms,
    "etr.steps": etr_steps,
    "etr.top5_entropy": etr_top5_entropy,
    "etr.aes": etr_aes,
}
