"""Batched decoding: each distinct prompt is computed and kept once, a row that ends leaves the batch.

All rows of a batch begin together, so at any time each is at the same place of its response. S rows asked
for, B rows still growing, P distinct prompts, L tokens of the longest, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from megaent.errors import NumericsError
from megaent.rollout.embedded.cache import GroupCache, Prompts, Remaining
from megaent.rollout.embedded.transformer import Transformer
from megaent.rollout.sampling import Drawn, draw
from megaent.types import FinishReason, Prompt, SamplingParams


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
    batch = _Batch(model, rows, sampling.max_new_tokens)
    device = model.device
    token_SR = torch.zeros(len(rows), sampling.max_new_tokens, dtype=torch.int64, device=device)
    log_prob_SR = torch.zeros(token_SR.shape, dtype=torch.float64, device=device)
    top_token_SRK = torch.zeros(*token_SR.shape, sampling.top_log_probs, dtype=torch.int64, device=device)
    top_log_prob_SRK = torch.zeros(top_token_SRK.shape, dtype=torch.float64, device=device)
    length_S = torch.full((len(rows),), sampling.max_new_tokens, device=device)
    stopped_S = torch.zeros(len(rows), dtype=torch.bool, device=device)
    stop_ids = torch.tensor(sampling.stop_token_ids, dtype=torch.int64, device=device)

    for position in range(sampling.max_new_tokens):
        token_B, log_prob_B, top_token_BK, top_log_prob_BK = batch.draw(sampling, position)
        token_SR[batch.row_B, position] = token_B
        log_prob_SR[batch.row_B, position] = log_prob_B.double()
        top_token_SRK[batch.row_B, position] = top_token_BK
        top_log_prob_SRK[batch.row_B, position] = top_log_prob_BK.double()
        stop_B = torch.isin(token_B, stop_ids)
        if stop_B.any():
            ended = batch.row_B[stop_B]
            length_S[ended] = position + 1
            stopped_S[ended] = True
            token_B = batch.drop(stop_B, token_B)
        if batch.is_empty or position + 1 == sampling.max_new_tokens:
            break
        batch.advance(token_B)

    with_top = sampling.top_log_probs > 0
    return [
        Continuation(
            tokens=tuple(token_SR[row, :length].tolist()),
            log_prob=tuple(log_prob_SR[row, :length].tolist()),
            finish="stop" if stopped else "length",
            top_tokens=tuple(map(tuple, top_token_SRK[row, :length].tolist())) if with_top else (),
            top_log_prob=tuple(map(tuple, top_log_prob_SRK[row, :length].tolist())) if with_top else (),
        )
        for row, (length, stopped) in enumerate(zip(length_S.tolist(), stopped_S.tolist(), strict=True))
    ]


class _Batch:
    """The rows still growing: what they attend to, and the logits of their next token."""

    def __init__(self, model: Transformer, rows: Sequence[Row], max_new_tokens: int) -> None:
        self._model, self._rows = model, rows
        device = model.device
        texts = list(dict.fromkeys(row.prompt.tokens for row in rows))
        place = {tokens: index for index, tokens in enumerate(texts)}
        prompt_B = torch.tensor([place[row.prompt.tokens] for row in rows], device=device)
        prompts = Prompts([*map(len, texts)], device)
        self._angles = model.angles(int(prompts.length_P.max()) + max_new_tokens)

        self._logits_BV = self._read(texts, prompts)[prompt_B]
        self._cache = GroupCache(prompts, prompt_B)
        self._next_B = prompts.length_P[prompt_B]
        self._seed_B = torch.tensor([row.seed for row in rows], dtype=torch.int64, device=device)
        self.row_B = torch.arange(len(rows), device=device)

    def _read(self, texts: Sequence[tuple[int, ...]], prompts: Prompts) -> Tensor:
        """The logits behind each prompt."""
        token_PL = _pad_right(texts, self._model.device)
        count, longest = token_PL.shape
        position_N = torch.arange(longest, device=token_PL.device).repeat(count)
        hidden_NE = self._model.hidden(token_PL.flatten(), self._angles.at(position_N), prompts.attend)
        last_P = torch.arange(count, device=token_PL.device) * longest + prompts.length_P - 1
        return self._model.logits(hidden_NE[last_P])

    @property
    def is_empty(self) -> bool:
        return self.row_B.numel() == 0

    def draw(self, sampling: SamplingParams, position: int) -> Drawn:
        drawn = draw(
            self._logits_BV,
            sampling=sampling,
            seed_B=self._seed_B,
            position_B=torch.full_like(self._seed_B, position),
        )
        is_finite_B = drawn.log_prob_B.isfinite()
        if not is_finite_B.all():
            row = self._rows[int(self.row_B[~is_finite_B][0])]
            raise NumericsError(
                f"prompt {row.prompt.id!r}, seed {row.seed}, response token {position}: the engine's logits "
                "are not finite; look at the weights it last received (grad/norm, loss) or at its dtype"
            )
        return drawn

    def drop(self, gone_B: Tensor, token_B: Tensor) -> Tensor:
        """Forget the rows that ended; what remains of ``token_B``."""
        remaining = Remaining.of(~gone_B)
        kept = remaining.order
        self._cache.keep(remaining)
        self._next_B, self._seed_B, self.row_B = self._next_B[kept], self._seed_B[kept], self.row_B[kept]
        return token_B[kept]

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
