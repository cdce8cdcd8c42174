"""Batched decoding: each distinct prompt is computed and kept once, a row that ends leaves the batch.

All rows of a batch begin together, so at any time each is at the same place of its response. B rows still
growing, P distinct prompts, L tokens of the longest, A positions ahead, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor

from megaent.errors import NumericsError
from megaent.randomness import uniform
from megaent.rollout.embedded.cache import GroupCache, Prompts, Remaining
from megaent.rollout.embedded.transformer import Transformer
from megaent.rollout.sampling import Drawn, draw
from megaent.types import FinishReason, Prompt, SamplingParams

_AHEAD = 64  # positions whose uniform numbers are computed at once


class Row(NamedTuple):
    """One response to be drawn."""

    prompt: Prompt
    seed: int


class Continuation(NamedTuple):
    """One response as it was drawn."""

    tokens: tuple[int, ...]
    log_prob: tuple[float, ...]
    finish: FinishReason
    top_tokens: tuple[tuple[int, ...], ...] = ()
    top_log_prob: tuple[tuple[float, ...], ...] = ()


@torch.inference_mode()
def decode(model: Transformer, rows: Sequence[Row], sampling: SamplingParams) -> list[Continuation]:
    """One continuation per row, in the order of ``rows``.

    Raises NumericsError, naming the prompt, when the model's logits are no distribution.
    """
    batch = _Batch(model, rows, sampling)
    while True:
        token_B = batch.draw()
        if batch.is_empty:
            return [continuation.finished(sampling.stop_token_ids) for continuation in batch.growing]
        batch.advance(token_B)


@dataclass
class _Growing:
    """A response so far."""

    tokens: list[int] = field(default_factory=list)
    log_prob: list[float] = field(default_factory=list)
    top_tokens: list[tuple[int, ...]] = field(default_factory=list)
    top_log_prob: list[tuple[float, ...]] = field(default_factory=list)

    def finished(self, stop_token_ids: Sequence[int]) -> Continuation:
        return Continuation(
            tokens=tuple(self.tokens),
            log_prob=tuple(self.log_prob),
            finish="stop" if self.tokens[-1] in stop_token_ids else "length",
            top_tokens=tuple(self.top_tokens),
            top_log_prob=tuple(self.top_log_prob),
        )


class _Batch:
    """The rows still growing: what they attend to, and the logits of their next token."""

    def __init__(self, model: Transformer, rows: Sequence[Row], sampling: SamplingParams) -> None:
        self._model, self._rows, self._sampling = model, rows, sampling
        self.growing = [_Growing() for _ in rows]
        self._living = list(range(len(rows)))  # which of the rows, B
        self._position = 0  # in the response
        texts = list(dict.fromkeys(row.prompt.tokens for row in rows))
        place = {tokens: index for index, tokens in enumerate(texts)}
        prompts = Prompts([*map(len, texts)], model.device)
        prompt_B = [place[row.prompt.tokens] for row in rows]
        self._angles = model.angles(max(map(len, texts)) + sampling.max_new_tokens)

        self._logits_BV = self._read(texts, prompts)[prompt_B]
        self._cache = GroupCache(prompts, prompt_B)
        self._next_B = torch.tensor([len(row.prompt.tokens) for row in rows], device=model.device)
        self._seed_B = torch.tensor([row.seed for row in rows], dtype=torch.int64, device=model.device)

    def _read(self, texts: Sequence[tuple[int, ...]], prompts: Prompts) -> Tensor:
        """The logits behind each prompt."""
        token_PL = _pad_right(texts, self._model.device)
        count, longest = token_PL.shape
        position_N = torch.arange(longest, device=token_PL.device).repeat(count)
        hidden_NE = self._model.hidden(token_PL.flatten(), self._angles.at(position_N), prompts.attend)
        last_P = [index * longest + len(tokens) - 1 for index, tokens in enumerate(texts)]
        return self._model.logits(hidden_NE[last_P])

    @property
    def is_empty(self) -> bool:
        return not self._living

    def draw(self) -> Tensor:
        """One token a row; rows that it ends leave, and what remains is given back."""
        drawn = draw(self._logits_BV, sampling=self._sampling, uniform_B=self._uniform())
        tokens = drawn.token_B.tolist()
        self._note(tokens, drawn)
        self._position += 1
        is_last = self._position == self._sampling.max_new_tokens
        stays = [not is_last and token not in self._sampling.stop_token_ids for token in tokens]
        return drawn.token_B if all(stays) else self._keep(stays, drawn.token_B)

    def _uniform(self) -> Tensor:
        """The numbers of this position; those of some positions are computed at once."""
        place = self._position % _AHEAD
        if place == 0:
            position_A = torch.arange(self._position, self._position + _AHEAD, device=self._seed_B.device)
            self._uniform_BA = uniform(self._seed_B[:, None], position_A)
        return self._uniform_BA[:, place]

    def _note(self, tokens: list[int], drawn: Drawn) -> None:
        log_probs = drawn.log_prob_B.tolist()
        for index, token, log_prob in zip(self._living, tokens, log_probs, strict=True):
            if not isfinite(log_prob):
                raise self._not_finite(self._rows[index])
            self.growing[index].tokens.append(token)
            self.growing[index].log_prob.append(log_prob)
        if self._sampling.top_log_probs:
            tops = zip(drawn.top_token_BK.tolist(), drawn.top_log_prob_BK.tolist(), strict=True)
            for index, (top_tokens, top_log_probs) in zip(self._living, tops, strict=True):
                self.growing[index].top_tokens.append(tuple(top_tokens))
                self.growing[index].top_log_prob.append(tuple(top_log_probs))

    def _not_finite(self, row: Row) -> NumericsError:
        return NumericsError(
            f"prompt {row.prompt.id!r}, seed {row.seed}, response token {self._position}: the engine's "
            "logits are not finite; look at the weights it last received (grad/norm, loss) or at its dtype"
        )

    def _keep(self, stays: list[bool], token_B: Tensor) -> Tensor:
        remaining = Remaining.of(stays, token_B.device)
        self._living = [self._living[index] for index in remaining.came_from]
        self._cache.keep(remaining)
        self._next_B, self._seed_B, self._uniform_BA, token_B = (
            remaining.close_up(x) for x in (self._next_B, self._seed_B, self._uniform_BA, token_B)
        )
        return token_B

    def advance(self, token_B: Tensor) -> None:
        """Append one token a row, and compute the logits of the next."""
        hidden_BE = self._model.hidden(token_B, self._angles.at(self._next_B), self._cache.attend)
        self._logits_BV = self._model.logits(hidden_BE)
        self._cache.advance()
        self._next_B = self._next_B + 1


def _pad_right(texts: Sequence[tuple[int, ...]], device: torch.device) -> Tensor:
    """Token ids with zeros behind."""
    longest = max(map(len, texts))
    return torch.tensor([[*tokens, *[0] * (longest - len(tokens))] for tokens in texts], device=device)
