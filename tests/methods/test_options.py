"""No option is inert: switching it changes what a token learns, or what is drawn around the step."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields, replace

import pytest
import torch
from support.batches import applied, history_columns, random_groups, scored_batch, stepped_view
from support.choices import FORMS, Chosen
from support.splits import assert_same_on_replicas
from torch import Tensor

from megaent.errors import ConfigError
from megaent.methods import METHODS, build_method
from megaent.objective.method import Method, Phase, Schedule
from megaent.ops import logprob_entropy
from megaent.types import Experience

pytestmark = pytest.mark.full

OPTIONS = [(name, option) for name in METHODS for option in inspect.signature(METHODS[name]).parameters]
ANY_TEXT = ("boundary", "thinking_end")
AROUND = ("sampling", "second_rollout", "history", "curriculum", "top_log_probs", "steps")
"""What the loop does before a batch is there; nothing of it is in the loss of a batch that is given."""


RUNS = ((), (0.05,), (2.0,), (0.3, *(0.05,) * 9), (0.3, *(2.0,) * 9), (0.3, *(2.0,) * 9, 0.05))
"""Entropies of the steps before, nats, that bring a controller to its start, to either end and back."""


# ---------------------------------------------------------------- other values


def other_values(name: str, option: str) -> list[object]:
    """Values that the option may have beside its default: the named ones, or numbers around it."""
    default = inspect.signature(METHODS[name]).parameters[option].default
    if isinstance(default, bool):
        return [not default]
    if option in ANY_TEXT:
        return ["</reasoning>"]
    words = named_choices(name, option)
    if words:
        return [word for word in words if word != default]
    is_number = isinstance(default, (int, float)) and default
    near = [default * 2, default / 2, -default] if is_number else []
    values: list = [*near, 0.5, 0.9, 0.3, 0.05, 1.5, 2.0, 5.0, 0.0, 1.0, 3, 20, 40, 1]
    if type(default) is int:
        values = [int(value) for value in values]
    given = [form[name][option] for form in FORMS.values() if option in form.get(name, {})]
    return [value for value in dict.fromkeys([*given, *values]) if value != default]


def named_choices(name: str, option: str) -> list[str]:
    """Read off the refusal of a word that is none of them; empty for an option that takes numbers."""
    try:
        build_method({name: {option: "no such choice"}})
    except ConfigError as error:
        found = re.search(r" must be (?:one of )?(.*), got", str(error))
        text = re.sub(r"\([^)]*\)", "", found[1]) if found else ""
        words = [word.strip() for word in re.split(r",| or ", text)]
        return [word for word in words if re.fullmatch(r"[a-z_0-9]+", word)]
    return []


def beside(name: str, option: str) -> Iterator[dict[str, object]]:
    """Nothing, the method's other forms, then every other option at each of its other values.

    Some options belong to one another.
    """
    yield {}
    for form in FORMS.values():
        if list(form) == [name]:
            yield {other: value for other, value in form[name].items() if other != option}
    for other in inspect.signature(METHODS[name]).parameters:
        if other != option:
            for value in other_values(name, other):
                yield {other: value}


def built(chosen: Chosen) -> Schedule | None:
    try:
        return build_method(chosen)
    except ConfigError:
        return None


# ---------------------------------------------------------------- what it comes to


def rich_batch(schedule: Schedule) -> Experience:
    """Right, wrong and cut responses of many lengths, thinking and answers, engine and trainer apart."""
    groups = random_groups(1, second=True)
    batch = replace(scored_batch(groups), history=history_columns(groups, schedule, num_prompts=12))
    assert batch.log_prob_old is not None
    nuclei = {p for phase in schedule.phases if (p := phase.method.loss.nucleus_p) is not None}
    return replace(
        batch,
        nucleus_entropy=over_a_nucleus(batch.num_tokens, *nuclei) if nuclei else None,
        in_thinking=batch.position < batch.length[batch.owner] // 2,
        log_prob_engine=batch.log_prob_old - 1.2 * (batch.position % 3 - 1),
        format_ok=torch.arange(batch.num_responses) % 3 > 0,
    )


def over_a_nucleus(num_tokens: int, p: float) -> Tensor:
    """[T] of logits that are the same for every p."""
    logits = 2 * torch.randn(num_tokens, 20, generator=torch.Generator().manual_seed(1))
    found = logprob_entropy(logits, torch.zeros(num_tokens, dtype=torch.int64), nucleus_p=p)
    assert found.nucleus_entropy is not None
    return found.nucleus_entropy


def states(method: Method) -> list[dict[str, float]]:
    """The controllers' numbers at the start, and after steps of little and of much entropy."""
    found = []
    for entropies in RUNS:
        coefs: dict[str, float] = {}
        for controller in method.controllers:
            state = controller.start()
            for entropy in entropies:
                told = ("entropy/sampled", "aepo/entropy", "siren/entropy", "stare/entropy")
                state = controller.update(state, dict.fromkeys(told, entropy))
            coefs |= controller.coefs(state)
        found.append(coefs)
    return found if method.controllers else found[:1]


@functools.cache
def outcome(schedule: Schedule) -> list[Tensor | float]:
    """Loss and gradients of every token, phase by phase; far enough from the old policy for every clip."""
    batch, found = rich_batch(schedule), []
    for phase in schedule.phases:
        for coefs in states(phase.method):
            terms, metrics = applied(phase.method, schedule, batch, num_minibatches=2, coefs=coefs)
            view = stepped_view(batch, terms, spread=8.0)
            loss = terms.weight.double() * phase.method.loss(view)[0]
            leaves = [view.log_prob, view.entropy, view.nucleus_entropy]
            grads = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
            found += [loss.detach(), *(torch.zeros_like(loss) if g is None else g for g in grads)]
            found += [metrics["reward/shaped"], *coefs.values()]
    return found


def same(one: list[Tensor | float], other: list[Tensor | float]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(one, other, strict=True)
    )


def around(schedule: Schedule) -> list[object]:
    settings = [item.name for item in fields(Phase) if item.name != "method"]
    return [
        [getattr(phase, name) for name in settings] + [getattr(phase.method, name) for name in AROUND]
        for phase in schedule.phases
    ]


@functools.cache
def switched(name: str, option: str) -> tuple[Chosen, Chosen] | None:
    """The first two settings that differ in the option alone and make a difference."""
    default = inspect.signature(METHODS[name]).parameters[option].default
    for context in beside(name, option):
        first: tuple[Chosen, Schedule] | None = None
        for value in (default, *other_values(name, option)):
            chosen: Chosen = {name: {**context, option: value}}
            schedule = built(chosen)
            if schedule is None:
                continue
            if first is None:
                first = chosen, schedule
            elif differ(first[1], schedule):
                return first[0], chosen
    return None


def differ(one: Schedule, other: Schedule) -> bool:
    return one != other and (around(one) != around(other) or not same(outcome(one), outcome(other)))


# ---------------------------------------------------------------- the laws


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=[".".join(pair) for pair in OPTIONS])
def test_switching_an_option_changes_loss_or_gradient_or_what_is_drawn(name: str, option: str) -> None:
    assert switched(name, option) is not None, f"method.{name}.{option} changes nothing in any setting tried"


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=[".".join(pair) for pair in OPTIONS])
def test_a_switched_option_gives_the_same_numbers_on_every_split(name: str, option: str) -> None:
    settings = switched(name, option)
    assert settings is not None
    schedule = build_method(settings[1])
    for phase in schedule.phases:
        assert_same_on_replicas(schedule, phase.method, num_replicas=3)


def test_an_option_that_changes_nothing_would_be_found() -> None:
    """The outcome of a method is itself again, and another method's is not."""
    assert same(outcome(build_method({"grpo": {}})), outcome(build_method({"grpo": {}})))
    assert not same(outcome(build_method({"grpo": {}})), outcome(build_method({"rloo": {}})))
