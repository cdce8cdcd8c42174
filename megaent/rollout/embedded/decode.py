"""Batched decoding with a KV cache: each distinct prompt is read once, a row that ends leaves the batch.

All rows of a batch begin together, so at any time each is at the same place of its response; prompts of
different lengths are padded on the left and masked. S rows asked for, B rows still growing, P distinct
prompts, L tokens of the longest prompt, K tokens in the cache, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from megaent.errors import NumericsError
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


class KeyValueCache(Protocol):
    def batch_select_indices(self, indices: Tensor) -> None: ...


class ModelOutput(Protocol):
    logits: Tensor  # [B, 1, V], of the last token alone
    past_key_values: KeyValueCache


class CausalModel(Protocol):
    """As much of a Hugging Face causal language model as decoding calls."""

    @property
    def device(self) -> torch.device: ...

    def __call__(
        self,
        *,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor,
        past_key_values: KeyValueCache | None,
        use_cache: bool,
        logits_to_keep: int,
    ) -> ModelOutput: ...


@torch.inference_mode()
def decode(
    model: CausalModel,
    rows: Sequence[Row],
    sampling: SamplingParams,
    new_cache: Callable[[], KeyValueCache | None] = lambda: None,
) -> list[Continuation]:
    """One continuation per row, in the order of ``rows``.

    ``new_cache`` makes the empty cache that the model fills; None leaves that to the model. Raises
    NumericsError, naming the prompt, when the model's logits are no distribution.
    """
    batch = _Batch(model, rows, new_cache())
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
    """The rows still growing: their cache, and the logits of their next token."""

    def __init__(self, model: CausalModel, rows: Sequence[Row], cache: KeyValueCache | None) -> None:
        self._model, self._rows = model, rows
        device = model.device
        prompts = list(dict.fromkeys(row.prompt.tokens for row in rows))
        place = {tokens: index for index, tokens in enumerate(prompts)}
        prompt_B = torch.tensor([place[row.prompt.tokens] for row in rows], device=device)

        token_PL, real_PL = _pad_left(prompts, device)
        is_padded = min(map(len, prompts)) < token_PL.shape[1]
        output = model(
            input_ids=token_PL,
            attention_mask=_causal_mask(real_PL) if is_padded else None,
            position_ids=(real_PL.cumsum(dim=-1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = output.past_key_values
        self._cache.batch_select_indices(prompt_B)
        self._logits_BV = output.logits[prompt_B, -1]
        self._seen_BK = real_PL[prompt_B] if is_padded else None
        self._next_B1 = real_PL.sum(dim=-1)[prompt_B, None]
        self._seed_B = torch.tensor([row.seed for row in rows], dtype=torch.int64, device=device)
        self.row_B = torch.arange(len(rows), device=device)

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
        kept = (~gone_B).nonzero().squeeze(-1)
        self._cache.batch_select_indices(kept)
        self._next_B1, self._seed_B, self.row_B = self._next_B1[kept], self._seed_B[kept], self.row_B[kept]
        if self._seen_BK is not None:
            self._seen_BK = self._seen_BK[kept]
        return token_B[kept]

    def advance(self, token_B: Tensor) -> None:
        """Append one token a row, and compute the logits of the next."""
        mask = None
        if self._seen_BK is not None:
            self._seen_BK = torch.nn.functional.pad(self._seen_BK, (0, 1), value=True)
            mask = self._seen_BK[:, None, None, :]
        output = self._model(
            input_ids=token_B[:, None],
            attention_mask=mask,
            position_ids=self._next_B1,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._logits_BV = output.logits[:, -1]
        self._next_B1 = self._next_B1 + 1


def _pad_left(prompts: Sequence[tuple[int, ...]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids with zeros on the left, and True where a token is real."""
    longest = max(map(len, prompts))
    token_PL = torch.tensor([[0] * (longest - len(tokens)) + list(tokens) for tokens in prompts])
    padding_P = torch.tensor([longest - len(tokens) for tokens in prompts])
    real_PL = torch.arange(longest) >= padding_P[:, None]
    return token_PL.to(device), real_PL.to(device)


def _causal_mask(real_PL: Tensor) -> Tensor:
    """True where a query (third axis) may look at a key (fourth)."""
    length = real_PL.shape[1]
    causal_LL = torch.ones(length, length, dtype=torch.bool, device=real_PL.device).tril()
    # Padding looks at itself: a query that sees nothing would be NaN in some attention kernels.
    itself_LL = torch.eye(length, dtype=torch.bool, device=real_PL.device)
    return ((causal_LL & real_PL[:, None, :]) | itself_LL)[:, None]
