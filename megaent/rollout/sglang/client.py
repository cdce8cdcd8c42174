"""Responses from a fleet: bounded concurrency, limits on every wait, retries that lose and double nothing.

A response has a slot of its own and is asked for by one request at a time; each attempt has another request
id, so that a late answer to an old one can never be taken for the new one's. Tokens that an aborted attempt
drew are kept, and the rest of the budget is asked for.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

from megaent.errors import EngineError
from megaent.randomness import draw_seed
from megaent.rollout.sglang.connection import UnavailableError
from megaent.rollout.sglang.fleet import Fleet, Member
from megaent.rollout.sglang.ledger import Account, Ledger
from megaent.rollout.sglang.wire import Answer, OtherWeightsError, Question, parse_answer
from megaent.types import FinishReason, Group, Prompt, Response, RolloutRequest, SamplingParams

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    vocab_size: int
    concurrency: int = 256  # requests under way at once
    request_timeout_s: float = 600.0  # of one attempt
    attempts: int = 4  # without a usable answer, in a row, until a response is given up
    backoff_s: float = 0.5  # before the first retry; doubles with each
    honours_seeds: bool = False  # servers in deterministic mode draw a response from its seed
    keeps_cache: bool = False  # servers go on with what old weights computed when new ones come (in_place)


class Client:
    """Asks a fleet for whole groups."""

    def __init__(self, fleet: Fleet, options: ClientOptions, *, ledger: Ledger) -> None:
        self.ledger = ledger
        self._fleet = fleet
        self._options = options
        self._places = asyncio.Semaphore(options.concurrency)
        self._run = secrets.token_hex(4)  # request ids differ from those of another run on these servers
        self._call = 0

    async def generate(
        self, requests: Sequence[RolloutRequest], sampling: SamplingParams, *, version: int
    ) -> list[Group]:
        """One group per request, in order, none of whose tokens was drawn from weights before ``version``."""
        self._call += 1
        groups = [f"{self._run}-{self._call:05x}-{place:05x}" for place in range(len(requests))]
        slots = [
            [f"{group}-{number:04x}" for number in range(len(request.seeds))]
            for group, request in zip(groups, requests, strict=True)
        ]
        call = _Call(Account([slot for row in slots for slot in row]), sampling, version)
        work = [
            self._respond(call, group, slot, request.prompt, seed)
            for group, row, request in zip(groups, slots, requests, strict=True)
            for slot, seed in zip(row, request.seeds, strict=True)
        ]
        try:
            async with self._fleet.watched():
                responses = iter(await _all(work))
        finally:
            for group in groups:
                self._fleet.forget(group)
            self.ledger.close(
                call.account, version=version, groups=[request.prompt.id for request in requests]
            )
        counts = call.account.counts
        if counts.failed or counts.continued:
            log.info("%d responses took %d requests: %s", counts.answered, counts.attempts, counts)
        return [
            Group(
                index=request.index,
                prompt=request.prompt,
                responses=tuple(next(responses) for _ in request.seeds),
            )
            for request in requests
        ]

    async def _respond(self, call: _Call, group: str, slot: str, prompt: Prompt, seed: int) -> Response:
        """One response, over as many attempts as it takes."""
        drawn = _Drawn(call.sampling.max_new_tokens)
        failures = attempt = 0
        while True:
            call.account.attempt(slot)
            try:
                async with self._places:
                    asked = self._fleet.version
                    question = Question(
                        rid=f"{slot}-{attempt:03x}",
                        tokens=prompt.tokens + tuple(drawn.tokens),
                        sampling=replace(call.sampling, max_new_tokens=drawn.budget),
                        vocab_size=self._options.vocab_size,
                        seed=seed % 2**31 if self._options.honours_seeds else None,
                        cache_key=self._fleet.cache_key,
                    )
                    attempt += 1
                    answer = await self._ask(question, group, oldest=call.version, asked=asked)
            except UnavailableError as error:
                failures += 1
                call.account.fail(slot)
                if failures >= self._options.attempts:
                    raise EngineError(
                        f"prompt {prompt.id!r}: given up after {failures} attempts; the last: {error}"
                    ) from error
                log.warning("prompt %r, attempt %d: %s", prompt.id, attempt, error)
                await asyncio.sleep(self._options.backoff_s * backoff(slot, failures))
                continue
            drawn.add(answer, oldest=asked if self._options.keeps_cache else None)
            failures = 0
            if answer.finish != "abort" or drawn.budget == 0:
                call.account.answer(slot)
                return drawn.response("length" if answer.finish == "abort" else answer.finish)
            call.account.keep_part(slot)

    async def _ask(self, question: Question, group: str, *, oldest: int, asked: int) -> Answer:
        """One attempt at one server; ``asked`` is the version in use now, ``oldest`` the first of use."""
        member = await self._fleet.choose(group)
        try:
            raw = await self._fleet.post(
                member,
                "/generate",
                question.body(),
                timeout_s=self._options.request_timeout_s,
                headers={"X-SMG-Routing-Key": group},
            )
            answer = parse_answer(raw, question)
            self._require_known_weights(answer, question, oldest)
        except UnavailableError as error:
            await self._after_failure(member, group, question, error)
            raise
        # Whoever publishes in pause mode abort ends what waits for its first token as well.
        if answer.finish == "abort" and not answer.tokens and self._fleet.newest == asked:
            raise UnavailableError(f"request {question.rid} was aborted before its first token", status=200)
        return answer

    def _require_known_weights(self, answer: Answer, question: Question, oldest: int) -> None:
        for span in answer.spans:
            if not oldest <= span.version <= self._fleet.newest:
                raise OtherWeightsError(
                    f"request {question.rid} was answered with weights of version {span.version}, not of "
                    f"{oldest} to {self._fleet.newest}; does another run publish to this server?",
                    status=200,
                )

    async def _after_failure(
        self, member: Member, group: str, question: Question, error: UnavailableError
    ) -> None:
        """A request that is given up closes its connection, and SGLang aborts what nobody waits for."""
        self._fleet.shun(group, member)
        if isinstance(error, OtherWeightsError):
            self._fleet.lose(member, str(error))
        elif error.status is None and not error.is_late:
            await self._fleet.suspect(member, str(error))


@dataclass(frozen=True, slots=True)
class _Call:
    """What the responses of one call have in common."""

    account: Account
    sampling: SamplingParams
    version: int  # of the weights in use when it began


async def _all(work: Sequence[Coroutine[Any, Any, Response]]) -> list[Response]:
    """Run together; the first that fails ends the others, whose connections close, which aborts them."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Drawn:
    """What the attempts at one response have drawn so far."""

    def __init__(self, limit: int) -> None:
        self.tokens: list[int] = []
        self._log_prob: list[float] = []
        self._top_tokens: list[tuple[int, ...]] = []
        self._top_log_prob: list[tuple[float, ...]] = []
        self._version: int | None = None
        self._limit = limit

    @property
    def budget(self) -> int:
        return self._limit - len(self.tokens)

    def add(self, answer: Answer, *, oldest: int | None) -> None:
        """``oldest``: the version whose cache ``answer`` may have begun from; None if none is kept."""
        self.tokens += answer.tokens
        self._log_prob += answer.log_prob
        self._top_tokens += answer.top_tokens
        self._top_log_prob += answer.top_log_prob
        if self._version is None and answer.spans:
            first = answer.spans[0].version
            self._version = first if oldest is None else min(first, oldest)

    def response(self, finish: FinishReason) -> Response:
        """With the version of the oldest weights that it rests on."""
        assert self._version is not None, "a response has a token, and a token a version"
        return Response(
            tokens=tuple(self.tokens),
            log_prob=tuple(self._log_prob),
            finish=finish,
            version=self._version,
            top_tokens=tuple(self._top_tokens),
            top_log_prob=tuple(self._top_log_prob),
        )


def backoff(rid: str, failures: int) -> float:
    """1, 2, 4 … up to 64, with a jitter between 0.5 and 1.5 that is a function of the request."""
    jitter = 0.5 + draw_seed("retry", rid) / 2**63
    return 2.0 ** min(failures - 1, 6) * jitter
