"""Does a server hold the weights it was sent? Asked of its memory, and of its log-probabilities.

The first finds one wrong byte and names its tensor. The second finds what no checksum can: weights that
arrived whole and are used in another way than the trainer uses them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megaent.errors import ConfigError, EngineError, NumericsError
from megaent.rollout.sglang.control import Control
from megaent.sync.checksums import Checksums


@dataclass(frozen=True, slots=True)
class WeightCheck:
    """Compares every parameter of a server with what was published."""

    control: Control
    checksums: Checksums

    def __call__(self, server: str) -> None:
        """Raises NumericsError with the first tensor that differs, in the order of publication."""
        found = _checksums_of(server, self.control.post(server, "/weights_checker", {"action": "checksum"}))
        for parameter, expected in self.checksums.expected.items():
            if found.get(parameter) == expected:
                continue
            tensors = " + ".join(self.checksums.sources[parameter])
            if parameter not in found:
                raise NumericsError(
                    f"{server} has no parameter {parameter}, to which {tensors} was published: it serves "
                    "another model"
                )
            raise NumericsError(
                f"{server} does not hold {tensors} as published: the checksum of {parameter} is "
                f"{found[parameter]}, expected {expected}; is rollout.dtype the type that the server runs in?"
            )
        unpublished = [parameter for parameter in found if parameter not in self.checksums.expected]
        if unpublished:
            raise NumericsError(
                f"{server} holds {unpublished[0]}, for which nothing was published: it serves another model"
            )


def _checksums_of(server: str, answer: Any) -> Mapping[str, str]:
    ranks = answer.get("ranks") if isinstance(answer, dict) else None
    if not isinstance(ranks, list) or not ranks or not all(isinstance(rank, dict) for rank in ranks):
        raise EngineError(f"{server}/weights_checker names no checksums: {str(answer)[:200]}")
    if len(ranks) > 1:
        raise ConfigError(
            f"{server} splits its weights over {len(ranks)} ranks, whose checksums are of parts; set "
            "rollout.sync.check_every=0, log-probabilities are compared all the same"
        )
    found = ranks[0].get("checksums")
    if not isinstance(found, dict):
        raise EngineError(f"{server}/weights_checker names no checksums: {str(answer)[:200]}")
    return found


# ---------------------------------------------------------------- log-probabilities


def prompt_log_probs(control: Control, server: str, tokens: Sequence[int], *, extra_key: str) -> list[float]:
    """The server's log-prob of each token but the first, given those before it, nats, at temperature 1.

    ``extra_key`` keeps the request away from prefixes that other weights computed.
    """
    body = {
        "input_ids": list(tokens),
        "sampling_params": {"max_new_tokens": 0, "temperature": 1.0},
        "return_logprob": True,
        "logprob_start_len": 0,
        "extra_key": extra_key,
    }
    answer = control.post(server, "/generate", body)
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


def require_same_log_probs(
    engine: Sequence[float], trainer: Sequence[float], *, bound: float, server: str
) -> float:
    """The largest absolute difference, nats. Raises NumericsError above ``bound`` and for what is not finite.

    ``bound`` is 1e-4 for fp32 on both sides; bf16 differs by 0.1 to 0.3.
    """
    if len(engine) != len(trainer):
        raise ValueError(
            f"as many log-probs from both sides are needed, got {len(engine)} and {len(trainer)}"
        )
    worst, place = 0.0, 0
    for i, (theirs, ours) in enumerate(zip(engine, trainer, strict=True)):
        difference = abs(theirs - ours)
        if not math.isfinite(difference):
            worst, place = math.inf, i
            break
        if difference > worst:
            worst, place = difference, i
    if worst > bound:
        raise NumericsError(
            f"{server} and the trainer disagree after a publication: the log-prob of token {place + 1} is "
            f"{engine[place]:.6g} there and {trainer[place]:.6g} here, {worst:.2e} nats apart, above the "
            f"bound of {bound:.1e}; compare rollout.dtype with model.dtype"
        )
    return worst
