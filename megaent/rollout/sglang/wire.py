"""What goes over the wire when tokens are asked for: the body of a request, and an answer that is believed.

A server's answer is checked as if it came from a stranger: one log-probability too few, a NaN or a token that
the model does not have would otherwise be trained on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from megaent.rollout.sglang.connection import RefusedError, UnavailableError
from megaent.types import FinishReason, SamplingParams

_ROUNDING = 1e-5  # nats above 0 that a log-probability may have by rounding


class OtherWeightsError(UnavailableError):
    """Drawn from weights that are not this run's newest: the server began anew, or missed a publication."""


class Span(NamedTuple):
    """Tokens ``start`` up to ``end`` of an answer were drawn from weights of one version."""

    version: int
    start: int
    end: int


class Answer(NamedTuple):
    """One continuation, or the part of it that was drawn before an abort."""

    tokens: tuple[int, ...]
    log_prob: tuple[float, ...]  # nats, temperature applied, before top-p
    finish: FinishReason
    spans: tuple[Span, ...]
    top_tokens: tuple[tuple[int, ...], ...] = ()
    top_log_prob: tuple[tuple[float, ...], ...] = ()
    cached_tokens: int = 0  # of the prompt, whose keys and values the server still had


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One continuation asked for: what an answer is checked against."""

    rid: str  # of fixed width within a run: SGLang aborts every request whose id begins with a given one
    tokens: tuple[int, ...]  # the prompt, and what an aborted attempt drew already
    sampling: SamplingParams
    vocab_size: int
    seed: int | None = None  # only for servers that honour it
    cache_key: str = ""  # requests share cached prefixes with those of an equal key

    def body(self) -> dict[str, Any]:
        """Of POST /generate. Whatever a model's generation_config could set otherwise is said."""
        sampling = self.sampling
        params: dict[str, Any] = {
            "max_new_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": -1,
            "min_p": 0.0,
            "frequency_penalty": 0.0,
            "presence_penalty": 0.0,
            "repetition_penalty": 1.0,
        }
        # ignore_eos makes SGLang pass over stop_token_ids as well.
        if sampling.stop_token_ids:
            params["stop_token_ids"] = list(sampling.stop_token_ids)
        else:
            params["ignore_eos"] = True
        if self.seed is not None:
            params["sampling_seed"] = self.seed
        body: dict[str, Any] = {
            "rid": self.rid,
            "input_ids": list(self.tokens),
            "sampling_params": params,
            "return_logprob": True,
        }
        if sampling.top_log_probs:
            body["top_logprobs_num"] = sampling.top_log_probs
        if self.cache_key:
            body["extra_key"] = self.cache_key
        return body


def parse_answer(raw: object, question: Question) -> Answer:
    """Raises UnavailableError for an answer that is malformed or answers another question.

    RefusedError when the server ended the response by a rule of its own, as it would again.
    """
    reader = _Reader(question)
    meta = reader.mapping(reader.mapping(raw, "the answer").get("meta_info"), "meta_info")
    if meta.get("id") != question.rid:
        raise reader.wrong(f"meta_info.id is {meta.get('id')!r}")
    assert isinstance(raw, dict)
    tokens = reader.tokens(raw.get("output_ids"), "output_ids")
    finish = reader.finish(meta.get("finish_reason"), tokens)
    top_tokens, top_log_prob = reader.top(meta.get("output_top_logprobs"), len(tokens))
    return Answer(
        tokens=tokens,
        log_prob=reader.log_probs(meta.get("output_token_logprobs"), tokens),
        finish=finish,
        spans=reader.spans(meta, len(tokens)),
        top_tokens=top_tokens,
        top_log_prob=top_log_prob,
        cached_tokens=reader.count(meta.get("cached_tokens", 0), "meta_info.cached_tokens"),
    )


class _Reader:
    """Reads the parts of one answer; whatever is wrong is said with the request's id."""

    def __init__(self, question: Question) -> None:
        self._question = question

    def wrong(self, what: str) -> UnavailableError:
        return UnavailableError(f"request {self._question.rid}: a malformed answer: {what}", status=200)

    def mapping(self, value: object, name: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.wrong(f"{name} should be an object, got {_shown(value)}")
        return value

    def count(self, value: object, name: str) -> int:
        if type(value) is not int or value < 0:
            raise self.wrong(f"{name} should be a count, got {_shown(value)}")
        return value

    def tokens(self, value: object, name: str) -> tuple[int, ...]:
        if not isinstance(value, list):
            raise self.wrong(f"{name} should be a list of token ids, got {_shown(value)}")
        for token in value:
            if type(token) is not int or not 0 <= token < self._question.vocab_size:
                raise self.wrong(
                    f"{name} holds {_shown(token)}, outside the vocabulary of {self._question.vocab_size}"
                )
        limit = self._question.sampling.max_new_tokens
        if len(value) > limit:
            raise self.wrong(f"{name} holds {len(value)} tokens, {limit} were asked for")
        return tuple(value)

    def finish(self, value: object, tokens: Sequence[int]) -> FinishReason:
        reason = self.mapping(value, "meta_info.finish_reason")
        kind, sampling = reason.get("type"), self._question.sampling
        if kind == "abort":
            return "abort"
        if not tokens:
            raise self.wrong(f"no token, and finish_reason {_shown(reason)}")
        if kind == "length":
            if len(tokens) < sampling.max_new_tokens:
                raise RefusedError(
                    f"request {self._question.rid} was cut at {len(tokens)} of "
                    f"{sampling.max_new_tokens} tokens. Is the server's context shorter than the model's? "
                    "Start it with a larger --context-length, or lower rollout.max_new_tokens",
                    status=200,
                )
            return "length"
        if kind == "stop":
            if tokens[-1] not in sampling.stop_token_ids:
                raise RefusedError(
                    f"request {self._question.rid} ended at token {tokens[-1]}, which is none of the task's "
                    f"stop tokens {list(sampling.stop_token_ids)}; make eos_token_id in the model folder's "
                    "generation_config.json agree with them",
                    status=200,
                )
            return "stop"
        raise self.wrong(f"finish_reason is {_shown(reason)}")

    def log_probs(self, value: object, tokens: Sequence[int]) -> tuple[float, ...]:
        """Of [log-prob, token, …] entries, one a token."""
        if not isinstance(value, list) or len(value) != len(tokens):
            got = f"{len(value)}" if isinstance(value, list) else _shown(value)
            raise self.wrong(f"{len(tokens)} log-probs should come with as many tokens, got {got}")
        found = [self._entry(entry) for entry in value]
        for place, ((_, named), token) in enumerate(zip(found, tokens, strict=True)):
            if named != token:
                raise self.wrong(f"log-prob {place} is of token {named}, drawn was {token}")
        return tuple(log_prob for log_prob, _ in found)

    def top(
        self, value: object, num_tokens: int
    ) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[float, ...], ...]]:
        """Ids and log-probs of the most probable tokens, highest first."""
        wanted = self._question.sampling.top_log_probs
        if not wanted:
            return (), ()
        if not isinstance(value, list) or len(value) != num_tokens:
            raise self.wrong(f"top log-probs of {num_tokens} tokens were asked for, got {_shown(value)}")
        ids, log_probs = [], []
        for place, entries in enumerate(value):
            if not isinstance(entries, list) or len(entries) != wanted:
                raise self.wrong(f"{wanted} top log-probs a token were asked for, got {_shown(entries)}")
            found = [self._entry(entry) for entry in entries]
            if any(first < second for (first, _), (second, _) in pairwise(found)):
                raise self.wrong(f"the top log-probs of token {place} are not in descending order")
            log_probs.append(tuple(log_prob for log_prob, _ in found))
            ids.append(tuple(token for _, token in found))
        return tuple(ids), tuple(log_probs)

    def _entry(self, entry: object) -> tuple[float, int]:
        if not isinstance(entry, list) or len(entry) < 2:
            raise self.wrong(f"[log-prob, token] expected, got {_shown(entry)}")
        log_prob, token = entry[0], entry[1]
        if type(log_prob) not in (float, int) or not math.isfinite(log_prob) or log_prob > _ROUNDING:
            raise self.wrong(f"a log-prob should be finite and at most 0, got {_shown(log_prob)}")
        self.tokens([token], "log-probs")
        return float(log_prob), token

    def spans(self, meta: dict[str, Any], num_tokens: int) -> tuple[Span, ...]:
        """Which weights drew which tokens; servers before weight_versions name one version for all."""
        if not num_tokens:
            return ()  # SGLang gives a span of no length then, or none
        raw = meta.get("weight_versions")
        if raw is None:
            raw = [{"version": meta.get("weight_version"), "start": 0, "end": num_tokens}]
        if not isinstance(raw, list):
            raise self.wrong(f"weight_versions should be a list, got {_shown(raw)}")
        spans = []
        end = 0
        for item in raw:
            part = self.mapping(item, "weight_versions")
            span = Span(
                self._version(part.get("version")),
                self.count(part.get("start"), "weight_versions.start"),
                self.count(part.get("end"), "weight_versions.end"),
            )
            if span.start != end or span.end <= span.start:
                raise self.wrong(f"weight_versions should follow each other without a gap, got {_shown(raw)}")
            end = span.end
            spans.append(span)
        if end != num_tokens:
            raise self.wrong(f"weight_versions cover {end} of {num_tokens} tokens")
        return tuple(spans)

    def _version(self, value: object) -> int:
        """A number that we gave; a server that began anew says "default", and its weights are not ours."""
        if not isinstance(value, str) or not value.isdecimal():
            raise OtherWeightsError(
                f"request {self._question.rid} was answered with weights {_shown(value)}, which no trainer "
                "published: the server began anew and has not received any yet",
                status=200,
            )
        return int(value)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}…"
