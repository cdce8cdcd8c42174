"""EGRC: compress first, then explore.

"Entropy-Guided Reasoning Compression", arXiv:2511.14258. Shortening lowers entropy and exploring raises
it, so the run has a phase for each, L = ``max_length``:

    compress   R = exp(-decay |y|) for a correct response of at most L tokens, else 0, with exp(-decay L) = r;
               A = beta R without baseline; only R > 0 teaches; sampling stops at L
    explore    R = answer + format - 0.25 per 1000 tokens beyond L; A = GRPO's; higher temperature

Here r is ``reward_at_limit`` and beta is ``reward_scale``. ``order="explore_first"`` and ``shape`` linear or
cosine are the paper's ablations; the baseline EE is megaent.methods.ee.

Inferred, for want of a word in the paper: r, beta, both temperatures, the weight of the format, the
explore phase's length limit (0: 2 L), that the penalty is in proportion and not in full thousands, the end
points of the linear and cosine shapes, and that the optimizer starts anew with the second phase.

Departures: the compress phase takes several optimizer steps per batch, so its policy term is the clipped
ratio and not REINFORCE's (``core="reinforce"``); on the first of them their gradients are the same. A
minibatch without a correct response takes no optimizer step; its share is the metric
egrc/empty_minibatches. The task's own reward is the answer's. A dual clip bounds the loss of negative
advantages (verl's default).
"""

from __future__ import annotations

from megaent.objective.advantages import GroupRelative
from megaent.objective.aggregations import aggregation as aggregation_named
from megaent.objective.compose import Part, PhasePart
from megaent.objective.compression import Absolute, FormatAndLength, PositiveOnly, ShortCorrect
from megaent.objective.cores import Reinforce, clipped

NEUTRAL = (
    {"compress_share": 0.0, "format_weight": 0.0, "penalty": 0.0},
    {"grpo": {"aggregation": "response_mean"}},
)
"""Options under which the method is another one, bit for bit: exploring alone, on the task's reward."""


def egrc(
    *,
    max_length: int = 4096,
    reward_at_limit: float = 0.1,
    reward_scale: float = 1.0,
    shape: str = "exponent",
    core: str = "ppo",
    compress_share: float = 0.5,
    order: str = "compress_first",
    compress_temperature: float = 0.6,
    explore_temperature: float = 1.0,
    explore_max_new_tokens: int = 0,
    format_weight: float = 1.0,
    penalty: float = 0.25,
    penalty_per: int = 1000,
    penalty_in_steps: bool = False,
    penalty_at_most: float | None = None,
    reset_optimizer: bool = True,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 3.0,
    aggregation: str = "response_mean",
    constant_length: int = 0,
) -> Part:
    """``max_length`` and ``explore_max_new_tokens`` in tokens; ``compress_share`` of the run's steps."""
    _check(core, order, compress_share)
    policy_term = clipped(clip_low, clip_high, dual_clip)
    compress = Part(
        rewards=(ShortCorrect(max_length=max_length, reward_at_limit=reward_at_limit, shape=shape),),
        advantage=Absolute(coef=reward_scale),
        weights=(PositiveOnly(),),
        suggests=Part(core=policy_term if core == "ppo" else Reinforce()),
    )
    reward = FormatAndLength(
        max_length=max_length,
        format_weight=format_weight,
        penalty=penalty,
        per=penalty_per,
        in_steps=penalty_in_steps,
        at_most=penalty_at_most,
    )
    explore = Part(rewards=(reward,), suggests=Part(advantage=GroupRelative(), core=policy_term))
    phases = {
        "compress": (compress, compress_share, compress_temperature, max_length),
        "explore": (
            explore,
            1 - compress_share,
            explore_temperature,
            explore_max_new_tokens or 2 * max_length,
        ),
    }
    names = list(phases) if order == "compress_first" else list(phases)[::-1]
    return Part(
        phases=_in_order({name: phases[name] for name in names}, reset_optimizer),
        suggests=Part(aggregation=aggregation_named(aggregation, constant_length)),
    )


def _in_order(
    phases: dict[str, tuple[Part, float, float, int]], reset_optimizer: bool
) -> tuple[PhasePart, ...]:
    """The phases that get a share of the run, one after the other."""
    made: list[PhasePart] = []
    for name, (part, share, temperature, max_new_tokens) in phases.items():
        if share > 0:
            made.append(
                PhasePart(
                    name=name,
                    until=1.0 if made else share,
                    part=part,
                    temperature=temperature,
                    max_new_tokens=max_new_tokens,
                    reset_optimizer=reset_optimizer and bool(made),
                )
            )
    return tuple(made)


def _check(core: str, order: str, compress_share: float) -> None:
    if core not in ("ppo", "reinforce"):
        raise ValueError(f"core must be ppo or reinforce, got {core!r}")
    if order not in ("compress_first", "explore_first"):
        raise ValueError(f"order must be compress_first or explore_first, got {order!r}")
    if not 0 <= compress_share <= 1:
        raise ValueError(f"compress_share must lie in [0, 1], a share of the run, got {compress_share}")
