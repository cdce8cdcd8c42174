"""Laws that a method obeys by being in the registry: what it is, and what its loss does."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from importlib import import_module
from pkgutil import iter_modules

import pytest
import torch
from support.batches import applied, random_groups, scored_batch
from support.builders import view
from support.choices import OF_THE_MICROBATCH, Chosen, every_choice, methods_of
from support.views import changed
from torch import Tensor

from megaent import objective
from megaent.errors import ConfigError
from megaent.methods import METHODS, build_method
from megaent.methods.matrix import compatibility, render
from megaent.objective.method import Advantage, Aggregation, Core, Method, Term, TokenRule
from megaent.types import PolicyView

CHOICES = every_choice(METHODS) | OF_THE_MICROBATCH
every = pytest.mark.parametrize("chosen", CHOICES.values(), ids=CHOICES.keys())
INVARIANT = every_choice(METHODS)
every_invariant = pytest.mark.parametrize("chosen", INVARIANT.values(), ids=INVARIANT.keys())
every_name = pytest.mark.parametrize("name", METHODS)


# ---------------------------------------------------------------- a method is a value


def rebuild(node: ast.expr, classes: Mapping[str, type]) -> object:
    """A printed value from its syntax tree; only the given classes are called, nothing is evaluated."""
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name)
        assert not node.args
        return classes[node.func.id](**{str(k.arg): rebuild(k.value, classes) for k in node.keywords})
    if isinstance(node, ast.Tuple):
        return tuple(rebuild(item, classes) for item in node.elts)
    if isinstance(node, ast.Name):
        return {"inf": float("inf")}[node.id]
    return ast.literal_eval(node)


def pieces() -> dict[str, type]:
    modules = [import_module(f"megaent.objective.{item.name}") for item in iter_modules(objective.__path__)]
    return {
        n: c for module in modules for n, c in inspect.getmembers(module, inspect.isclass) if is_dataclass(c)
    }


@every
def test_a_schedule_prints_as_what_rebuilds_it(chosen: Chosen) -> None:
    schedule = build_method(chosen)
    assert rebuild(ast.parse(repr(schedule), mode="eval").body, pieces()) == schedule


@every
def test_equal_options_make_equal_schedules_and_pickles_keep_them(chosen: Chosen) -> None:
    schedule = build_method(chosen)
    assert build_method(chosen) == schedule
    assert pickle.loads(pickle.dumps(schedule)) == schedule


@every
def test_a_method_is_made_of_frozen_pieces_that_say_what_they_do(chosen: Chosen) -> None:
    for _, method in methods_of(chosen):
        assert isinstance(method.advantage, Advantage)
        assert isinstance(method.loss.core, Core)
        assert isinstance(method.aggregation, Aggregation)
        assert all(isinstance(rule, TokenRule) for rule in method.loss.weights)
        assert all(isinstance(term, Term) and isinstance(term.coef, TokenRule) for term in method.loss.terms)
        for item in fields(method):
            with pytest.raises(AttributeError):
                setattr(method, item.name, None)
        lines = method.words()
        assert all(line.strip() and "object at 0x" not in line for line in lines), lines


# ---------------------------------------------------------------- its loss, token by token


def full_view(method: Method, num_tokens: int, *, spread: float, seed: int = 0) -> PolicyView:
    """Ten responses of a microbatch, with a coefficient for every term."""
    plain = view(num_tokens, seed=seed, spread=spread)
    noise = torch.Generator().manual_seed(seed + 1)
    owner = torch.arange(num_tokens) * 10 // num_tokens
    coefs = {term.name: torch.rand(num_tokens, generator=noise).double() for term in method.loss.terms}
    return changed(plain, owner=owner, num_responses=10, coefs=coefs)


def loss_and_gradients(
    method: Method, batch: PolicyView, weight_N: Tensor
) -> tuple[Tensor, list[Tensor], dict]:
    """As the actor weighs it: a token of weight 0 is left out, not multiplied by 0."""
    loss_N, metrics = method.loss(batch)
    loss = torch.where(weight_N != 0, weight_N * loss_N, 0.0).sum()
    leaves = [batch.log_prob, batch.entropy, batch.nucleus_entropy]
    grads = torch.autograd.grad(loss, leaves, allow_unused=True)
    return loss, [torch.zeros_like(weight_N) if grad is None else grad for grad in grads], metrics


@every
@pytest.mark.parametrize("spread", [0.0, 0.5, 100.0])
def test_loss_and_gradient_are_finite_and_metrics_carry_none(chosen: Chosen, spread: float) -> None:
    for _, method in methods_of(chosen):
        batch = full_view(method, 200, spread=spread)
        loss, grads, metrics = loss_and_gradients(method, batch, torch.full_like(batch.terms.advantage, 0.01))
        assert bool(loss.isfinite())
        assert all(bool(grad.isfinite().all()) for grad in grads)
        for name, value in metrics.items():
            assert value.shape == (200,), name
            assert not value.requires_grad, name
            assert bool(value.isfinite().all()), name


@every
def test_a_token_that_is_not_learnt_from_gets_no_gradient_and_gives_none(chosen: Chosen) -> None:
    for _, method in methods_of(chosen):
        batch = full_view(method, 200, spread=1.0)
        mask = torch.arange(200) % 3 > 0
        batch = changed(batch, mask=mask)
        loss, grads, _ = loss_and_gradients(method, batch, mask.double())
        assert any(bool((grad != 0).any()) for grad in grads)
        assert all(bool((grad[::3] == 0).all()) for grad in grads)
        moved = batch.log_prob.detach().clone()
        moved[::3] -= 1.0
        again, _, _ = loss_and_gradients(
            method, replace(batch, log_prob=moved.requires_grad_()), mask.double()
        )
        assert torch.equal(again, loss)


def rows_of(batch: PolicyView, rows: Tensor) -> PolicyView:
    return replace(
        batch,
        log_prob=batch.log_prob[rows],
        entropy=batch.entropy[rows],
        nucleus_entropy=batch.nucleus_entropy[rows],
        old=batch.old.at(rows),
        terms=batch.terms.at(rows),
    )


@every_invariant
def test_the_loss_does_not_depend_on_how_responses_are_split_into_microbatches(chosen: Chosen) -> None:
    for _, method in methods_of(chosen):
        batch = full_view(method, 100, spread=0.3)
        whole, _ = method.loss(batch)
        parts = [batch.old.owner < 3, (batch.old.owner >= 3) & (batch.old.owner < 4), batch.old.owner >= 4]
        pieces = [method.loss(rows_of(batch, rows))[0] for rows in parts]
        assert torch.equal(torch.cat(pieces), whole)


@every
def test_a_method_that_reads_the_reference_says_so(chosen: Chosen) -> None:
    for _, method in methods_of(chosen):
        without = changed(full_view(method, 20, spread=0.1), log_prob_ref=None)
        if method.needs_reference:
            with pytest.raises(ValueError, match="log_prob_ref"):
                method.loss(without)
        else:
            method.loss(without)


# ---------------------------------------------------------------- the registry


@every_name
def test_every_option_has_a_type_and_a_default(name: str) -> None:
    for option in inspect.signature(METHODS[name]).parameters.values():
        assert option.kind is inspect.Parameter.KEYWORD_ONLY
        assert option.default is not inspect.Parameter.empty
        assert option.annotation is not inspect.Parameter.empty


@every_name
def test_a_method_s_page_names_its_paper_and_its_departures(name: str) -> None:
    page = inspect.getdoc(inspect.getmodule(METHODS[name])) or ""
    assert "arXiv:" in page
    assert "Departures" in page


@every_name
def test_an_unknown_option_is_a_configuration_error(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"method\.{name}: .*no_such_option"):
        build_method({name: {"no_such_option": 1}})


@every_name
def test_a_word_that_is_no_choice_is_refused(name: str) -> None:
    for option, parameter in inspect.signature(METHODS[name]).parameters.items():
        if isinstance(parameter.default, str) and option not in ("boundary", "thinking_end"):  # any text
            with pytest.raises(ConfigError, match=rf"method\.{name}"):
                build_method({name: {option: "no such choice"}})


@pytest.mark.parametrize("chosen", [{}, {"no_such_method": {}}])
def test_a_choice_that_is_no_method_names_those_there_are(chosen: dict) -> None:
    with pytest.raises(ConfigError, match="grpo"):
        build_method(chosen)


def test_an_option_that_another_method_overrides_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"method\.grpo\.clip_high=0\.3 has no effect beside gspo"):
        build_method({"grpo": {"clip_high": 0.3}, "gspo": {}})
    build_method({"grpo": {"kl_coef": 0.1}, "gspo": {}})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("clip_low", 1.0),
        ("clip_low", -0.1),
        ("clip_high", -0.1),
        ("dual_clip", 0.5),
        ("dual_clip", -3.0),
        ("aggregation", "mean"),
        ("aggregation", "constant_length"),
        ("constant_length", 100),
        ("clip_low", "small"),
    ],
)
def test_grpo_refuses_an_option_by_name(option: str, value: object) -> None:
    with pytest.raises(ConfigError, match=r"method\.grpo: "):
        build_method({"grpo": {option: value}})


# ---------------------------------------------------------------- what it makes of a batch


@every
def test_equal_rewards_teach_nothing_where_the_method_says_so(chosen: Chosen) -> None:
    for schedule, method in methods_of(chosen):
        if not method.group_relative:
            continue
        groups = [g for g in random_groups(3, num_groups=6) if len(g.responses) > 1]
        batch = scored_batch(groups, schedule)
        for reward in (0.0, 0.1, 1.0):
            terms, _ = applied(method, schedule, replace(batch, reward=torch.full_like(batch.reward, reward)))
            assert bool((terms.advantage == 0).all())


# ---------------------------------------------------------------- what goes together


def test_every_pair_is_combined_or_refused_with_a_reason() -> None:
    pairs = compatibility()
    assert len(pairs) == len(METHODS) * (len(METHODS) - 1) // 2
    for (one, other), reason in pairs.items():
        if reason:
            assert one in reason
            assert other in reason
    combined = [pair for pair, reason in pairs.items() if not reason]
    assert {("less", "kl_cov"), ("ceeh", "tis"), ("less", "etr"), ("grpo", "rloo")} <= set(combined)
    assert all(
        pairs[pair] for pair in [("egrc", "sent"), ("rloo", "opo"), ("gspo", "cispo"), ("aepo", "tis")]
    )


def test_the_printed_matrix_has_a_row_for_every_method_and_every_reason() -> None:
    printed = render(compatibility())
    for name in METHODS:
        assert name in printed
    assert sum(bool(reason) for reason in compatibility().values()) == len(
        re.findall(r"(?m)^\w+ \+ \w+: ", printed)
    )


def test_a_composition_has_the_pieces_of_each_in_their_order() -> None:
    ((_, both),) = methods_of({"less": {}, "kl_cov": {}})
    ((_, less),) = methods_of({"less": {}})
    ((_, kl_cov),) = methods_of({"kl_cov": {}})
    assert both.shaping == less.shaping
    assert both.loss.core == kl_cov.loss.core
    assert both.loss.terms == kl_cov.loss.terms
    ((_, two),) = methods_of({"linear_length": {}, "etr": {}})
    assert [piece.replaces for piece in two.rewards] == [True, False]


def test_phases_keep_what_the_other_methods_of_a_composition_bring() -> None:
    phases = methods_of({"egrc": {}, "tis": {}, "entropy_bonus": {}})
    assert len(phases) == 2
    for _, method in phases:
        assert [term.name for term in method.loss.terms] == ["entropy_bonus"]
        assert "EngineMismatch" in repr(method.loss.weights)
