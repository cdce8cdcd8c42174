"""What a server makes of tokens that it did not draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from megaent.errors import EngineError


def request_of(tokens: Sequence[int], *, extra_key: str) -> dict[str, Any]:
    """The body for /generate; ``extra_key`` keeps away from prefixes that other weights computed."""
    return {
        "input_ids": list(tokens),
        "sampling_params": {"max_new_tokens": 0, "temperature": 1.0},
        "return_logprob": True,
        "logprob_start_len": 0,
        "extra_key": extra_key,
    }


def read_log_probs(answer: Any, tokens: Sequence[int], *, server: str) -> list[float]:
    """The server's log-prob of each token but the first, given those before it, nats, at temperature 1.

    Raises EngineError for an answer about anything else.
    """
    try:
        entries = answer["meta_info"]["input_token_logprobs"]
        named = [entry[1] for entry in entries]
        log_probs = [entry[0] for entry in entries[1:]]
    except (KeyError, IndexError, TypeError) as error:
        raise EngineError(f"{server}/generate gave no log-probs of a prompt: {str(answer)[:200]}") from error
    # SGLang 0.5.23 names the last token of the vocabulary 0 here; its log-prob is right.
    is_same = len(named) == len(tokens) and all(a in (b, 0) for a, b in zip(named, tokens, strict=True))
    if not is_same or not all(isinstance(log_prob, float) for log_prob in log_probs):
        raise EngineError(
            f"{server}/generate gave log-probs of other tokens than the {len(tokens)} it was asked for: "
            f"{str(entries)[:200]}"
        )
    return log_probs
