"""Laws that a method obeys by being in the registry."""

from __future__ import annotations

import ast
import inspect
import pickle
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace

import pytest
import torch
from support.builders import group, scored, view

from megaent.errors import ConfigError
from megaent.methods import METHODS, build_method
from megaent.objective import advantages, aggregations, compose, token_losses
from megaent.objective.compose import Advantage, Aggregation, Alone, Method, TokenLoss, estimate
from megaent.types import PolicyView

# Each method as it comes, and with every term that it has switched on.
CHOICES: dict[str, dict[str, dict[str, object]]] = {
    "grpo": {"grpo": {}},
    "grpo with all its terms": {"grpo": {"entropy_coef": 0.01, "kl_coef": 0.1, "clip_high": 0.28}},
    "grpo per response": {"grpo": {"aggregation": "response_mean", "dual_clip": 0.0}},
    "Dr. GRPO": {"grpo": {"normalize": False, "aggregation": "constant_length", "constant_length": 64}},
}
every_choice = pytest.mark.parametrize("chosen", CHOICES.values(), ids=CHOICES.keys())
every_method = pytest.mark.parametrize("name", METHODS)


def rebuild(node: ast.expr, classes: Mapping[str, type]) -> object:
    """A printed value from its syntax tree; only the given classes are called, nothing is evaluated."""
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name)
        assert not node.args
        return classes[node.func.id](**{str(k.arg): rebuild(k.value, classes) for k in node.keywords})
    if isinstance(node, ast.Tuple):
        return tuple(rebuild(item, classes) for item in node.elts)
    if isinstance(node, ast.Dict):
        keys = [rebuild(key, classes) for key in node.keys if key is not None]
        return dict(zip(keys, [rebuild(value, classes) for value in node.values], strict=True))
    return ast.literal_eval(node)


def pieces() -> dict[str, type]:
    modules = (advantages, aggregations, compose, token_losses)
    return {
        n: c for module in modules for n, c in inspect.getmembers(module, inspect.isclass) if is_dataclass(c)
    }


def test_every_method_of_the_registry_is_tried() -> None:
    assert {name for chosen in CHOICES.values() for name in chosen} == METHODS.keys()


@every_choice
def test_a_method_prints_as_what_rebuilds_it(chosen: dict) -> None:
    method = build_method(chosen)
    printed = ast.parse(repr(method), mode="eval").body
    assert rebuild(printed, pieces()) == method


@every_choice
def test_equal_options_make_equal_methods_and_pickles_keep_them(chosen: dict) -> None:
    method = build_method(chosen)
    assert build_method(chosen) == method
    assert pickle.loads(pickle.dumps(method)) == method
    others = [build_method(other) for other in CHOICES.values() if other != chosen]
    assert method not in others


@every_choice
def test_a_method_is_made_of_frozen_pieces(chosen: dict) -> None:
    method = build_method(chosen)
    assert isinstance(method, Method)
    assert isinstance(method.advantage, Advantage)
    assert isinstance(method.token_loss, TokenLoss)
    assert isinstance(method.aggregation, Aggregation)
    for item in fields(method):
        with pytest.raises(AttributeError):
            setattr(method, item.name, None)


def loss_and_gradients(method: Method, batch: PolicyView, weight: torch.Tensor):
    loss_N, metrics = method.token_loss(torch.zeros_like(batch.log_prob), batch)
    loss = (weight * loss_N).sum()
    grads = torch.autograd.grad(loss, [batch.log_prob, batch.entropy], allow_unused=True)
    return loss, [torch.zeros_like(weight) if grad is None else grad for grad in grads], metrics


@every_choice
@pytest.mark.parametrize("spread", [0.0, 0.5, 100.0])
def test_loss_and_gradient_are_finite_and_metrics_carry_none(chosen: dict, spread: float) -> None:
    batch = view(200, spread=spread)
    loss, grads, metrics = loss_and_gradients(
        build_method(chosen), batch, torch.full_like(batch.advantage, 0.01)
    )
    assert bool(loss.isfinite())
    assert all(bool(grad.isfinite().all()) for grad in grads)
    for name, value in metrics.items():
        assert value.shape == (200,), name
        assert not value.requires_grad, name
        assert bool(value.isfinite().all()), name


@every_choice
def test_a_token_of_weight_0_gets_no_gradient_and_gives_none(chosen: dict) -> None:
    batch = view(200, spread=1.0)
    weight = (torch.arange(200) % 3 > 0).double()
    loss, grads, _ = loss_and_gradients(build_method(chosen), batch, weight)
    assert any(bool((grad != 0).any()) for grad in grads)
    for grad in grads:
        assert bool((grad[::3] == 0).all())
    moved = batch.log_prob.detach().clone()
    moved[::3] -= 1.0
    again, _, _ = loss_and_gradients(
        build_method(chosen), replace(batch, log_prob=moved.requires_grad_()), weight
    )
    assert torch.equal(again, loss)


@every_choice
def test_the_loss_of_a_token_does_not_depend_on_its_neighbours(chosen: dict) -> None:
    batch = view(40)
    method = build_method(chosen)
    whole, _ = method.token_loss(torch.zeros(40, dtype=torch.float64), batch)

    def part(rows: slice) -> PolicyView:
        tensors = {f.name: getattr(batch, f.name)[rows] for f in fields(batch) if f.name != "selections"}
        return PolicyView(**tensors, selections={})

    halves = [
        method.token_loss(torch.zeros(20, dtype=torch.float64), part(rows))[0]
        for rows in (slice(20), slice(20, 40))
    ]
    assert torch.equal(torch.cat(halves), whole)


@every_choice
def test_equal_rewards_teach_nothing_where_the_method_says_so(chosen: dict) -> None:
    method = build_method(chosen)
    batch = scored([group(0, [0.1] * 3, [2, 5, 1]), group(1, [1.0] * 4, [3, 3, 2, 1])])
    terms, _ = estimate(
        method, batch, minibatch_S=torch.zeros(7, dtype=torch.int64), num_minibatches=1, population=Alone()
    )
    assert bool(terms.weight.isfinite().all())
    if not method.group_relative:
        return
    assert terms.advantage.tolist() == [0.0] * 17
    step = replace(view(17), advantage=terms.advantage.double())
    _, grads, _ = loss_and_gradients(method, step, terms.weight.double())
    assert all(bool((grad == 0).all()) for grad in grads)


@every_choice
def test_a_method_that_reads_the_reference_says_so(chosen: dict) -> None:
    method = build_method(chosen)
    without = replace(view(5), log_prob_ref=None)
    if method.needs_reference:
        with pytest.raises(ValueError, match="log_prob_ref"):
            loss_and_gradients(method, without, torch.ones(5))
    else:
        loss_and_gradients(method, without, torch.ones(5))


# ---------------------------------------------------------------- the registry


@every_method
def test_every_option_has_a_type_and_a_default(name: str) -> None:
    for option in inspect.signature(METHODS[name]).parameters.values():
        assert option.kind is inspect.Parameter.KEYWORD_ONLY
        assert option.default is not inspect.Parameter.empty
        assert option.annotation is not inspect.Parameter.empty


@every_method
def test_a_method_s_page_names_its_paper(name: str) -> None:
    page = inspect.getdoc(inspect.getmodule(METHODS[name])) or ""
    assert "arXiv:" in page
    assert "Departures" in page


@every_method
def test_an_unknown_option_is_a_configuration_error(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"method\.{name}: .*no_such_option"):
        build_method({name: {"no_such_option": 1}})


@pytest.mark.parametrize("chosen", [{}, {"grpo": {}, "other": {}}, {"no_such_method": {}}])
def test_a_choice_that_is_no_method_names_those_there_are(chosen: dict) -> None:
    with pytest.raises(ConfigError, match="grpo"):
        build_method(chosen)


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
