"""What a server says of tokens that it did not draw is read with care."""

from __future__ import annotations

import pytest

from megaent.errors import EngineError
from megaent.rollout.sglang.prompt_log_probs import read_log_probs


def read(entries: object) -> list[float]:
    """Of tokens 7, 8, 9."""
    return read_log_probs({"meta_info": {"input_token_logprobs": entries}}, [7, 8, 9], server="s")


def test_the_first_token_has_no_log_prob() -> None:
    assert read([[None, 7, None], [-0.5, 8, None], [-1.5, 9, None]]) == [-0.5, -1.5]


def test_the_last_token_of_the_vocabulary_may_be_called_0() -> None:
    assert read([[None, 7, None], [-0.5, 8, None], [-1.5, 0, None]]) == [-0.5, -1.5]


@pytest.mark.parametrize(
    "entries",
    [
        [[None, 7, None], [-0.5, 8, None]],
        [[None, 7, None], [-0.5, 8, None], [-1.5, 1, None]],
        [[None, 7, None], [None, 8, None], [-1.5, 9, None]],
        [],
        [None],
        None,
    ],
    ids=["short", "other token", "no number", "empty", "no entry", "none"],
)
def test_other_answers_are_refused(entries: object) -> None:
    with pytest.raises(EngineError, match="log-probs of"):
        read(entries)
