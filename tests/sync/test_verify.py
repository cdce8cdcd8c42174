"""A difference between engine and trainer is found, named, and above the bound it ends the run."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from support.weight_server import WeightServer

from megaent.errors import EngineError, NumericsError
from megaent.rollout.sglang.control import Control
from megaent.sync.verify import prompt_log_probs, require_same_log_probs


def test_the_largest_difference_is_reported() -> None:
    found = require_same_log_probs([-1.0, -2.0, -3.0], [-1.0, -2.5, -2.75], bound=0.6, server="s")
    assert found == 0.5


def test_above_the_bound_the_token_and_both_values_are_named() -> None:
    with pytest.raises(NumericsError, match=r"token 2 is -2 there and -2\.5 here, 5\.00e-01 nats apart"):
        require_same_log_probs([-1.0, -2.0], [-1.0, -2.5], bound=0.4, server="s")


@pytest.mark.parametrize("wrong", [math.nan, -math.inf])
def test_what_is_not_finite_is_a_difference(wrong: float) -> None:
    with pytest.raises(NumericsError, match="token 1 is"):
        require_same_log_probs([wrong, -1.0], [wrong, -1.0], bound=1e9, server="s")


def test_different_numbers_of_tokens_are_a_defect() -> None:
    with pytest.raises(ValueError, match="got 1 and 2"):
        require_same_log_probs([-1.0], [-1.0, -2.0], bound=1.0, server="s")


Ask = Callable[[list[object]], list[float]]


@pytest.fixture
def answering(start_server: Callable[[], WeightServer], control: Control) -> Ask:
    """The log-probs of tokens 7, 8, 9 from a server that answers with these entries."""

    def ask(entries: list[object]) -> list[float]:
        server = start_server()
        server.entries = entries
        return prompt_log_probs(control, server.url, [7, 8, 9], extra_key="1")

    return ask


def test_the_first_token_has_no_log_prob(answering: Ask) -> None:
    assert answering([[None, 7, None], [-0.5, 8, None], [-1.5, 9, None]]) == [-0.5, -1.5]


def test_the_last_token_of_the_vocabulary_may_be_called_0(answering: Ask) -> None:
    assert answering([[None, 7, None], [-0.5, 8, None], [-1.5, 0, None]]) == [-0.5, -1.5]


@pytest.mark.parametrize(
    "entries",
    [
        [[None, 7, None], [-0.5, 8, None]],
        [[None, 7, None], [-0.5, 8, None], [-1.5, 1, None]],
        [[None, 7, None], [None, 8, None], [-1.5, 9, None]],
        [],
        [None],
    ],
    ids=["short", "other token", "no number", "empty", "no entry"],
)
def test_other_answers_are_refused(entries: list[object], answering: Ask) -> None:
    with pytest.raises(EngineError, match="log-probs of"):
        answering(entries)
