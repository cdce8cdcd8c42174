"""Worked cases of CEEH and EGRC: the inputs of a case to what our pieces make of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from support.golden_inputs import experience, numbers, seen, tokens
from torch import Tensor

from megaent.evaluation.efficiency import (
    length_adjusted_accuracy,
    normalized_accuracy_gap,
    normalized_accuracy_gap_table1,
)
from megaent.objective.advantages import GroupRelative
from megaent.objective.compression import (
    SHAPES,
    Absolute,
    AccurateGroups,
    FormatAndLength,
    PositiveOnly,
    ShortCorrect,
)
from megaent.objective.difficulty import SCHEDULES, EntropyByDifficulty, HardPrompts, RecordLength
from megaent.objective.entropy_advantage import EntropyAdvantage
from megaent.objective.history import Outcome, PromptHistory
from megaent.objective.method import History

Case = dict[str, Any]


def given(inputs: Case, **names: str) -> dict[str, Any]:
    """Our option -> value, for those of the case's names ("a|b": either) that are there and not null."""
    return {
        ours: inputs[name]
        for ours, theirs in names.items()
        for name in theirs.split("|")
        if inputs.get(name) is not None
    }


# ---------------------------------------------------------------- CEEH


def ceeh_ema(inputs: Case) -> Case:
    rules = History(
        start="prior", prior=inputs.get("start", 0.0), **given(inputs, up="ema_up|up", down="ema_down|down")
    )
    history = PromptHistory(rules, ["x"])
    rows = []
    for step, accuracy in enumerate(inputs["accs"], 1):
        parts, whole = accuracy.as_integer_ratio()
        history.commit(step, [Outcome("x", whole, parts, 1 if parts else None)])
        rows.append(history.columns(step, ["x"])["accuracy_after"].item())
    return {"acc_h": rows}


def ceeh_lambda(inputs: Case) -> Case:
    batch = experience([1, 1], groups=[0, 1], history={"accuracy_after": [0.0, 1.0], "mean_after": [0.5] * 2})
    options = given(inputs, start="lam0", hard_mult="hard_mult")
    out: Case = {}
    for schedule in SCHEDULES:
        rule = EntropyByDifficulty(schedule=schedule, **options)
        coefs = [rule(tokens(batch), seen(batch, progress=t / inputs["T"])).tolist() for t in inputs["t"]]
        out[schedule] = {"hard": [hard for hard, _ in coefs], "easy": [easy for _, easy in coefs]}
    return out


def ceeh_reward(inputs: Case) -> Case:
    record = inputs.get("Lx")
    columns = {
        "accuracy_before": [0.0],
        "accuracy_now": [1.0 if inputs.get("gate", True) else 0.0],
        "shortest_before": [math.inf if record is None else float(record)],
    }
    batch = experience(inputs["lens"], inputs["correct"], history=columns)
    piece = RecordLength(**given(inputs, beta="beta", floor="floor"))
    reward_S = piece(batch.reward, seen(batch))
    return {"reward": reward_S.tolist(), "adv": _centred(reward_S, batch)}


def _centred(reward_S: Tensor, batch: Any) -> list[float]:
    return GroupRelative(normalize=False)(reward_S, seen(batch)).tolist()


def ceeh_two_steps(inputs: Case) -> Case:
    """From the second step on, each is taken by a table restored from the state of the last."""
    ids = [str(number) for number in range(inputs["n_prompts"])]
    rules = History(**given(inputs, up="ema_up|up", down="ema_down|down"))
    state, out = PromptHistory(rules, ids).state(), {}
    for step, groups in enumerate(inputs["steps"], 1):
        history = PromptHistory(rules, ids)
        history.load_state(state)
        out[f"step{step}"], out[f"mean{step}"] = _ceeh_step(history, step, groups, inputs)
        state = history.state()
    return out


def _ceeh_step(history: PromptHistory, step: int, groups: Case, inputs: Case) -> tuple[Case, float]:
    asked = list(groups)
    correct = [flag for flags, _ in groups.values() for flag in flags]
    lengths = [length for _, row in groups.values() for length in row]
    owners = [number for number, (flags, _) in enumerate(groups.values()) for _ in flags]
    outcomes = []
    for id_, (flags, row) in groups.items():
        right = [length for flag, length in zip(flags, row, strict=True) if flag]
        outcomes.append(Outcome(id_, len(flags), len(right), min(right, default=None)))
    history.commit(step, outcomes)
    columns = history.columns(step, asked)
    batch = experience(lengths, correct, owners, history=columns)
    whole = seen(batch)
    reward_S = RecordLength(**given(inputs, beta="beta", floor="floor"))(batch.reward, whole)
    is_hard_P = HardPrompts()(whole)
    record_of = {id_: row[2] for id_, row in history.state()["prompts"].items()}
    rewards, centred = reward_S.tolist(), _centred(reward_S, batch)
    out = {}
    for number, id_ in enumerate(asked):
        mine = [place for place, owner in enumerate(owners) if owner == number]
        past = columns["shortest_before"][number].item()
        out[id_] = {
            "acc": columns["accuracy_now"][number].item(),
            "gate": bool(columns["accuracy_now"][number] > columns["accuracy_before"][number]),
            "Lx_used": outcomes[number].shortest_correct if math.isinf(past) else past,
            "reward": [rewards[place] for place in mine],
            "adv": [centred[place] for place in mine],
            "hard": bool(is_hard_P[number]),
            "acc_h_after": columns["accuracy_after"][number].item(),
            "Lx_after": record_of[id_],
        }
    return out, columns["mean_after"][0].item()


def ceeh_ea(inputs: Case) -> Case:
    """Every token is a response of its own, so that each can be of a hard or an easy prompt."""
    number = len(inputs["adv"])
    options = given(inputs, alpha="alpha", kappa="kappa")

    def shaped(is_hard: Sequence[Any]) -> list[float]:
        columns = {"accuracy_after": [0.0 if hard else 1.0 for hard in is_hard], "mean_after": [0.5] * number}
        batch = experience([1] * number, groups=range(number), entropy=inputs["H"], history=columns)
        piece = EntropyAdvantage(where=HardPrompts(), **options)
        return piece(numbers(inputs["adv"]), seen(batch)).tolist()

    out = {"hard": shaped([True] * number), "easy": shaped([False] * number)}
    if inputs.get("hard") is not None:
        out["adv"] = out["shaped"] = shaped(_each(inputs["hard"], number))
    return out


def _each(value: Any, number: int) -> list[Any]:
    """A list is one value for each; a single value is that of all."""
    return list(value) if isinstance(value, list) and len(value) == number else [value] * number


def ceeh_nag(inputs: Case) -> Case:
    of = (inputs["acc"], inputs["acc_b"], inputs["L"], inputs["L_b"])
    made = {"eq17": normalized_accuracy_gap(*of), "table1": normalized_accuracy_gap_table1(*of)}
    rounded = {form: None if value is None else round(value, 2) for form, value in made.items()}
    return {**made, "paper_table3": rounded["eq17"], "paper_table1": rounded["table1"]}


# ---------------------------------------------------------------- EGRC


def _short(inputs: Case, **more: Any) -> ShortCorrect:
    return ShortCorrect(**given(inputs, max_length="L", reward_at_limit="r"), **more)


def egrc_shape(inputs: Case) -> Case:
    length_S = numbers(inputs["x"])
    factors = {shape: _short(inputs, shape=shape).factor(length_S).tolist() for shape in SHAPES}
    return {"lambda": _short(inputs).decay, **factors}


def egrc_stage1(inputs: Case) -> Case:
    batch = experience(inputs["lens"], inputs["correct"])
    reward_S = _short(inputs, **given(inputs, shape="shape"))(batch.reward, seen(batch))
    advantage_S = Absolute(**given(inputs, coef="beta"))(reward_S, seen(batch))
    # Rules see tokens; the first token of each response stands for it.
    weight_T = PositiveOnly()(tokens(batch, advantage_S[batch.owner]), seen(batch))
    first_S = batch.length.cumsum(0) - batch.length
    return {
        "R": reward_S.tolist(),
        "adv": advantage_S.tolist(),
        "active": [int(active) for active in weight_T[first_S].tolist()],
    }


def egrc_stage2(inputs: Case) -> Case:
    options = given(
        inputs,
        max_length="L",
        format_weight="w_fmt|format_weight",
        penalty="len_decay",
        per="per",
        at_most="clamp",
    )
    piece = FormatAndLength(in_steps=bool(inputs.get("floor")), **options)
    batch = experience(inputs["lens"], inputs["answer"], format_ok=inputs.get("fmt"))
    reward_S = piece(batch.reward, seen(batch))
    return {"R": reward_S.tolist(), "adv": GroupRelative()(reward_S, seen(batch)).tolist()}


def egrc_ee_split(inputs: Case) -> Case:
    correct, owners = [], []
    for number, accuracy in enumerate(inputs["group_acc"]):
        parts, whole = float(accuracy).as_integer_ratio()
        if whole > 10**4:  # not a dyadic number: the nearest share of 10000 responses
            parts, whole = round(accuracy * 10**4), 10**4
        correct += [1] * parts + [0] * (whole - parts)
        owners += [number] * whole
    batch = experience([1] * len(owners), correct, owners)
    split = AccurateGroups(**given(inputs, threshold="threshold"))(seen(batch))
    return {"mode": ["compress" if accurate else "accuracy" for accurate in split.tolist()]}


def egrc_lacc(inputs: Case) -> Case:
    rows = zip(inputs["acc"], inputs["L"], inputs["L_base"], strict=True)
    made = [length_adjusted_accuracy(*row) for row in rows]
    return {"lacc": made, "paper": [None if value is None else round(value, 1) for value in made]}


FAMILIES: dict[str, Callable[[Case], Case]] = {
    "ceeh.ema": ceeh_ema,
    "ceeh.lambda": ceeh_lambda,
    "ceeh.reward": ceeh_reward,
    "ceeh.two_steps": ceeh_two_steps,
    "ceeh.ea": ceeh_ea,
    "ceeh.nag": ceeh_nag,
    "egrc.shape": egrc_shape,
    "egrc.stage1": egrc_stage1,
    "egrc.stage2": egrc_stage2,
    "egrc.ee_split": egrc_ee_split,
    "egrc.lacc": egrc_lacc,
}
