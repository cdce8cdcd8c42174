"""The page on adding a method, tried by adding the method it shows."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.batches import applied, gradients, random_groups, scored_batch

import megaent.methods
from megaent.errors import ConfigError
from megaent.methods import METHODS, build_method
from megaent.methods.options import read_options
from megaent.objective.compose import Part
from megaent.objective.method import Method, Schedule

COEF, TARGET = 0.02, 0.4


def example(repository: Path) -> str:
    page = (repository / "docs" / "adding_a_method.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    return block


@pytest.fixture
def entropy_floor(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Part]:
    """The page's method, from a module of its own, as one more line of the registry."""
    path = tmp_path / "entropy_floor.py"
    path.write_text(example(repository))
    spec = importlib.util.spec_from_file_location("page_of_adding", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(megaent.methods, "METHODS", {**METHODS, "entropy_floor": module.entropy_floor})
    return module.entropy_floor


def beside_grpo(**options: float) -> tuple[Schedule, Method]:
    schedule = build_method({"grpo": {"clip_high": 0.28}, "entropy_floor": options})
    (phase,) = schedule.phases
    return schedule, phase.method


@pytest.mark.usefixtures("entropy_floor")
def test_the_coefficient_is_paid_on_tokens_below_the_target_and_nowhere_else() -> None:
    schedule, method = beside_grpo(coef=COEF, target=TARGET)
    batch = scored_batch(random_groups(0))
    assert batch.entropy is not None
    terms, _ = applied(method, schedule, batch, num_minibatches=2)
    is_below = [float(entropy) < TARGET for entropy in batch.entropy]
    assert 0 < sum(is_below) < len(is_below)
    expected = torch.tensor([COEF if below else 0.0 for below in is_below])
    assert terms.coefs.keys() == {"entropy_floor"}
    assert torch.equal(terms.coefs["entropy_floor"], expected)


@pytest.mark.usefixtures("entropy_floor")
def test_it_raises_the_entropy_there_and_leaves_grpo_as_it_is() -> None:
    schedule, method = beside_grpo(coef=COEF, target=TARGET)
    base_schedule = build_method({"grpo": {"clip_high": 0.28}})
    base = base_schedule.phases[0].method
    batch = scored_batch(random_groups(1))
    terms, _ = applied(method, schedule, batch)
    _, by_log_prob, by_entropy = gradients(method, batch, terms)
    _, expected, none = gradients(base, batch, applied(base, base_schedule, batch)[0])
    assert torch.equal(by_log_prob, expected)
    assert bool((none == 0).all())
    assert batch.entropy is not None
    paid = torch.where(batch.entropy < TARGET, -terms.weight.double() * COEF, 0.0)
    torch.testing.assert_close(by_entropy, paid, rtol=1e-6, atol=0.0)


@pytest.mark.usefixtures("entropy_floor")
def test_its_options_are_typed_and_a_wrong_one_is_refused(repository: Path) -> None:
    options = read_options(example(repository), "entropy_floor")
    assert options == [("coef", float, 1e-3), ("target", float, 0.1)]
    with pytest.raises(ConfigError, match=r"method\.entropy_floor: .*no_such_option"):
        build_method({"entropy_floor": {"no_such_option": 1}})


@pytest.mark.usefixtures("entropy_floor")
def test_a_run_would_say_in_words_what_was_added() -> None:
    _, method = beside_grpo(coef=COEF, target=TARGET)
    assert (
        "added to the loss: entropy_floor: (0.02 where the entropy is below 0.4) x -entropy" in method.words()
    )
