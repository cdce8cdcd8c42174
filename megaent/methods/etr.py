"""ETR: reward responses whose entropy falls from step to step.

"Entropy Trend Reward", arXiv:2604.05355. With H_t the mean entropy of the t-th of T reasoning steps:

    S_1 = 0,  S_t = gamma S_{t-1} + H_{t-1} - H_t,  R_ent = sum of S_t over t >= 2      (eqs. 5-8)
    R   = -1 for a wrong response, 1 + lam R_ent for a correct one                        (eq. 12)

``form="released"`` is the authors' code: falls count 0.4 and rises 0.8, gamma is 0.99, entropy is that of
the engine's five most probable tokens, a step closes where the most probable token (not the sampled one)
holds the boundary, what follows the last step is left out, and a response without a step gets 0. There
a trace that merely wavers pays for every step: it is in effect a penalty on their number, and a long
correct response can fall below a wrong one (``clip_r_ent=1`` prevents that).

Read from the authors' code: lam, the KL and entropy coefficients. Inferred for the paper's form: that H_t
averages the entropies over the whole vocabulary of the step's tokens, and that the tail is a step.

Departures: with fewer than two steps R_ent is 0. The released form keeps last steps of entropy 0, which
the code trims. A text that the tokenizer spreads over several tokens is not seen. A dual clip bounds the
loss of negative advantages (verl's default).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from megaent.objective.advantages import GroupRelative
from megaent.objective.aggregations import aggregation as aggregation_named
from megaent.objective.compose import Part
from megaent.objective.cores import clipped
from megaent.objective.entropy_trend import NUM_TOP, EntropyTrend
from megaent.objective.method import ReasoningSteps
from megaent.objective.terms import entropy_bonus, kl_to_reference

NEUTRAL = ({"lam": 0.0, "kl_coef": 0.0, "entropy_coef": 0.0}, {"grpo": {}})
"""Options under which the method is another one, bit for bit, on rewards of -1 (wrong) and 1 (correct)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    gamma: float
    fall_weight: float
    rise_weight: float
    entropy: str
    tail: str
    closer: str
    no_step_reward: float | None

    def reward(self, lam: float, limit: float | None) -> EntropyTrend:
        return EntropyTrend(
            coef=lam,
            gamma=self.gamma,
            fall_weight=self.fall_weight,
            rise_weight=self.rise_weight,
            entropy=self.entropy,
            closed_by_top=self.closer == "top",
            keep_tail=self.tail == "keep",
            limit=limit,
            no_step_reward=self.no_step_reward,
        )


_ALLOWED = {"entropy": ("full", "top5"), "tail": ("keep", "drop"), "closer": ("sampled", "top")}

_FORMS = {
    "paper": _Form(
        gamma=0.9, fall_weight=1.0, rise_weight=1.0, entropy="full", tail="keep", closer="sampled",
        no_step_reward=None,
    ),
    "released": _Form(
        gamma=0.99, fall_weight=0.4, rise_weight=0.8, entropy="top5", tail="drop", closer="top",
        no_step_reward=0.0,
    ),
}  # fmt: skip


def etr(
    *,
    form: str = "paper",
    lam: float = 0.005,
    gamma: float | None = None,
    fall_weight: float | None = None,
    rise_weight: float | None = None,
    entropy: str | None = None,
    tail: str | None = None,
    closer: str | None = None,
    boundary: str = "",
    thinking_end: str = "",
    clip_r_ent: float | None = None,
    kl_coef: float = 0.005,
    entropy_coef: float = 1e-4,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 3.0,
    aggregation: str = "token_mean",
    constant_length: int = 0,
) -> Part:
    """null takes the form's: ``entropy`` full or top5, ``tail`` keep or drop, ``closer`` sampled or top.

    ``boundary`` is the text that closes a step, "" the task's own; ``thinking_end`` the text that ends the
    part in which steps count, for example "</think>", "" for the whole response; ``clip_r_ent`` bounds
    |lam R_ent|.
    """
    given = {
        "gamma": gamma, "fall_weight": fall_weight, "rise_weight": rise_weight,
        "entropy": entropy, "tail": tail, "closer": closer,
    }  # fmt: skip
    reward = _chosen(form, given).reward(lam, clip_r_ent)
    return Part(
        rewards=(reward,),
        terms=(*kl_to_reference(kl_coef), *entropy_bonus(entropy_coef)),
        top_log_probs=NUM_TOP if reward.entropy == "top5" else int(reward.closed_by_top),
        steps=ReasoningSteps(boundary=boundary, thinking_end=thinking_end),
        suggests=Part(
            advantage=GroupRelative(),
            core=clipped(clip_low, clip_high, dual_clip),
            aggregation=aggregation_named(aggregation, constant_length),
        ),
    )


def _chosen(form: str, given: Mapping[str, float | str | None]) -> _Form:
    """The form, with what was given in its place."""
    if form not in _FORMS:
        raise ValueError(f"form must be one of {', '.join(_FORMS)}, got {form!r}")
    fields = {name: value for name, value in given.items() if value is not None}
    for option, allowed in _ALLOWED.items():
        if fields.get(option, allowed[0]) not in allowed:
            raise ValueError(f"{option} must be one of {', '.join(allowed)}, got {fields[option]!r}")
    return replace(_FORMS[form], **fields)
