"""The fake engine: no model, tokens that are a pure function of (seed, position); for tests of the loop."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from megaent.errors import EngineError
from megaent.randomness import draw_seed, uniform
from megaent.rollout.sampling import require_prompts, require_sampling
from megaent.types import Group, Metrics, Response, RolloutRequest, SamplingParams


class FakeEngine:
    """Draws uniformly from the vocabulary, whatever weights it receives, with log-probability -log V.

    Where there is a stop token, a response ends when one is drawn, and by the first of them at a length
    drawn from its seed; that one is put there and not drawn, so that short limits show both ends. Without
    a stop token every response has ``max_new_tokens``, as it has from any engine.
    """

    takes_weights_while_generating = False

    def __init__(self, vocab_size: int, *, context_length: int = 1 << 20, version: int = 0) -> None:
        self.version = version
        self._vocab_size = vocab_size
        self._context_length = context_length
        self._closed = False

    def generate(self, requests: Sequence[RolloutRequest], sampling: SamplingParams) -> list[Group]:
        """One ungraded group per request, in the order of the requests, responses in the order of seeds."""
        self._require_open()
        require_sampling(sampling, vocab_size=self._vocab_size)
        require_prompts(
            requests,
            max_new_tokens=sampling.max_new_tokens,
            vocab_size=self._vocab_size,
            context_length=self._context_length,
        )
        return [
            Group(
                index=request.index,
                prompt=request.prompt,
                responses=tuple(self._respond(seed, sampling) for seed in request.seeds),
            )
            for request in requests
        ]

    def _respond(self, seed: int, sampling: SamplingParams) -> Response:
        positions = torch.arange(sampling.max_new_tokens)
        # The upper end is clamped: a uniform number just below 1 may round up to V.
        drawn = (uniform(torch.full_like(positions, seed), positions) * self._vocab_size).long()
        tokens = drawn.clamp(max=self._vocab_size - 1).tolist()
        if sampling.stop_token_ids:
            limit = 1 + draw_seed("length of a fake response", seed) % sampling.max_new_tokens
            if limit < sampling.max_new_tokens:
                tokens[limit - 1] = sampling.stop_token_ids[0]
        stops = (place for place, token in enumerate(tokens) if token in sampling.stop_token_ids)
        stop = next(stops, None)
        tokens = tokens if stop is None else tokens[: stop + 1]
        every = -math.log(self._vocab_size)
        top = sampling.top_log_probs
        return Response(
            tokens=tuple(tokens),
            log_prob=(every,) * len(tokens),
            top_tokens=(tuple(range(top)),) * len(tokens) if top else (),
            top_log_prob=((every,) * top,) * len(tokens) if top else (),
            finish="length" if stop is None else "stop",
            version=self.version,
        )

    def receive_weights(self, named_tensors: Iterable[tuple[str, Tensor]], version: int) -> Metrics:
        """Read the stream to its end, keep nothing but the version."""
        self._require_open()
        for _ in named_tensors:
            pass
        self.version = version
        return {}

    def rest(self) -> None:
        """It has no memory."""

    def close(self) -> None:
        self._closed = True

    def _require_open(self) -> None:
        if self._closed:
            raise EngineError("the fake engine is closed; build another one")
