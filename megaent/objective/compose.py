"""How the pieces of several papers become one method.

Part      what one paper adds; what it leaves empty is for others to fill
compose   named parts to a Schedule of whole methods, or a reason why they do not go together
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from megaent.objective.method import (
    Advantage,
    Aggregation,
    Controller,
    Core,
    Curriculum,
    DynamicSampling,
    History,
    Loss,
    Method,
    Phase,
    ReasoningSteps,
    RewardTerm,
    Schedule,
    SecondRollout,
    Shaping,
    Term,
    TokenRule,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one paper adds.

    Single slots (advantage, core, aggregation, …) are what the paper insists on; ``suggests`` holds what
    it was published with but can do without, used where no part of a composition insists.
    """

    rewards: tuple[RewardTerm, ...] = ()
    advantage: Advantage | None = None
    shaping: tuple[Shaping, ...] = ()
    weights: tuple[TokenRule, ...] = ()
    core: Core | None = None
    terms: tuple[Term, ...] = ()
    aggregation: Aggregation | None = None
    controllers: tuple[Controller, ...] = ()
    sampling: DynamicSampling | None = None
    second_rollout: SecondRollout | None = None
    history: History | None = None
    curriculum: Curriculum | None = None
    top_log_probs: int = 0  # most probable tokens whose log-probs the engine reports
    steps: ReasoningSteps | None = None  # how responses are cut into steps of reasoning
    phases: tuple[PhasePart, ...] = ()
    suggests: Part | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasePart:
    """A phase of a part: its settings, and what it adds while it lasts."""

    name: str
    until: float = 1.0  # share of the run's steps at which it ends
    part: Part = field(default_factory=Part)
    temperature: float | None = None  # of the rollout; None keeps the run's
    max_new_tokens: int | None = None  # None keeps the run's
    reset_optimizer: bool = False  # at its start
    reset_reference: bool = False  # at its start the reference policy becomes the present one
    stage: int | None = None  # of the curriculum; None takes every prompt


# ---------------------------------------------------------------- composition

_LISTS = ("rewards", "shaping", "weights", "terms", "controllers")
_SINGLES = (
    "advantage", "core", "aggregation", "sampling", "second_rollout", "history", "curriculum",
    "steps", "phases",
)  # fmt: skip


def compose(parts: Mapping[str, Part], base: Part) -> Schedule:
    """The schedule of named parts; ``base`` fills what none of them insists on or suggests.

    Lists are joined in the order of the parts. Where two parts insist on different things for one slot,
    or add a piece under the same name, ValueError says which and why. Of two suggestions the first part's
    is taken.
    """
    phases = _join(parts).phases or (PhasePart(name="whole run"),)
    made = []
    for phase in phases:
        settings = {item.name: getattr(phase, item.name) for item in fields(PhasePart) if item.name != "part"}
        owner = next((name for name, part in parts.items() if phase in part.phases), "phase")
        within = {
            name: replace(_over(phase.part, part) if name == owner else part, phases=())
            for name, part in parts.items()
        }
        made.append(Phase(method=_whole(within, base), **settings))
    return Schedule(phases=tuple(made))


def _over(first: Part, second: Part) -> Part:
    """A phase's part with what holds in every phase of its owner."""
    return _join({"phase": first, "every phase": second})


def _join(parts: Mapping[str, Part]) -> Part:
    """One part of several; the suggestions of all, the first one's first."""
    joined: dict[str, object] = {
        name: tuple(piece for part in parts.values() for piece in getattr(part, name)) for name in _LISTS
    }
    for slot in _SINGLES:
        joined[slot] = _single(slot, parts)
    joined["top_log_probs"] = max((part.top_log_probs for part in parts.values()), default=0)
    suggested: dict[str, object] = {}
    for part in parts.values():
        for slot in ("advantage", "core", "aggregation", "sampling"):
            value = getattr(part.suggests, slot) if part.suggests is not None else None
            if value is not None:
                suggested.setdefault(slot, value)
    joined["suggests"] = Part(**suggested) if suggested else None  # type: ignore[arg-type]
    return Part(**joined)  # type: ignore[arg-type]


def _single(slot: str, parts: Mapping[str, Part]) -> object:
    empty = () if slot == "phases" else None
    claims = {name: getattr(part, slot) for name, part in parts.items() if getattr(part, slot) != empty}
    if not claims:
        return empty
    one, value = next(iter(claims.items()))
    for other, theirs in claims.items():
        if theirs != value:
            raise ValueError(
                f"{one} and {other} cannot be combined: both set the {slot.replace('_', ' ')}, {one} to "
                f"{value!r} and {other} to {theirs!r}; leave one of them out, or give them equal options"
            )
    return value


def _whole(parts: Mapping[str, Part], base: Part) -> Method:
    joined = _join(parts)
    _refuse_doubles(parts)
    _refuse_two_nuclei(parts)
    offers = [part for part in (joined, joined.suggests, base) if part is not None]

    def first(slot: str) -> Any:
        return next(value for part in offers if (value := getattr(part, slot)) is not None)

    suggested_sampling = joined.suggests.sampling if joined.suggests is not None else None
    _refuse_unknown_rewards(joined.sampling or suggested_sampling, joined.rewards)
    return Method(
        advantage=first("advantage"),
        loss=Loss(core=first("core"), weights=joined.weights, terms=joined.terms),
        aggregation=first("aggregation"),
        rewards=tuple(sorted(joined.rewards, key=lambda piece: not piece.replaces)),
        shaping=joined.shaping,
        controllers=joined.controllers,
        sampling=joined.sampling or suggested_sampling,
        second_rollout=joined.second_rollout,
        history=joined.history,
        curriculum=joined.curriculum,
        top_log_probs=joined.top_log_probs,
        steps=joined.steps,
    )


def _refuse_unknown_rewards(sampling: DynamicSampling | None, rewards: tuple[RewardTerm, ...]) -> None:
    """Groups are kept or replaced before the policy scores them."""
    late = [piece for piece in rewards if piece.needs_entropy]
    if sampling is not None and sampling.metric == "shaped" and late:
        raise ValueError(
            f"metric=shaped cannot be combined with {type(late[0]).__name__}, whose reward needs entropies "
            "that are known only after the groups are chosen; set metric=accuracy"
        )


def _refuse_two_nuclei(parts: Mapping[str, Part]) -> None:
    """One pass gives the entropy over one nucleus."""
    asked = {
        name: term.quantity.nucleus_p
        for name, part in parts.items()
        for term in part.terms
        if term.quantity.nucleus_p is not None
    }
    if len(set(asked.values())) > 1:
        listed = ", ".join(f"{name} of {p:g}" for name, p in asked.items())
        raise ValueError(f"the pass gives the entropy over one nucleus, asked were {listed}; make them equal")


def _refuse_doubles(parts: Mapping[str, Part]) -> None:
    """A term under one name twice, two rewards from scratch, or one controller twice."""
    owners: dict[str, str] = {}
    for name, part in parts.items():
        claims = [f"a loss term named {term.name!r}" for term in part.terms]
        claims += ["the reward of a response from scratch" for piece in part.rewards if piece.replaces]
        claims += [f"a controller named {piece.name!r}" for piece in part.controllers]
        claims += [f"a weight of the policy term ({type(piece).__name__})" for piece in part.weights]
        for claim in claims:
            other = owners.setdefault(claim, name)
            if other != name:
                raise ValueError(
                    f"{other} and {name} cannot be combined: both bring {claim}; leave one of them out"
                )
