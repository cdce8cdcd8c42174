"""What a server says of tokens that it did not draw is read with care."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.weight_server import WeightServer

from megaent.errors import EngineError
from megaent.rollout.sglang.control import Control
from megaent.rollout.sglang.prompt_log_probs import prompt_log_probs

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
