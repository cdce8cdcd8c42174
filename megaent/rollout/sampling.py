"""What an engine may be asked, and how one token is drawn: one uniform number, one inverse CDF.

The uniform number of a token is a function of its response's seed and its place in the response. A draw
therefore depends on (seed, position, logits) alone, never on its neighbours in a batch or on what was
drawn before. B rows of a batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from megaent.errors import ConfigError, DataError, ModelError
from megaent.types import RolloutRequest, SamplingParams


class Drawn(NamedTuple):
    """One token a row."""

    token_B: Tensor  # int64
    log_prob_B: Tensor  # nats, at the temperature, before top-p
    top_token_BK: Tensor  # the K = ``top_log_probs`` most probable, highest first
    top_log_prob_BK: Tensor  # and their log-probs


def draw(
    logits_BV: Tensor,
    *,
    sampling: SamplingParams,
    uniform_B: Tensor,
    vocab_size: int | None = None,
) -> Drawn:
    """One token a row, and its log-probability in nats at ``temperature`` and before ``top_p``.

    ``uniform_B`` are the fp64 numbers of megaent.randomness.uniform for each row's seed and position.
    Everything is fp32 (fp64 for fp64 logits), the cumulative sum fp64. ``vocab_size`` leaves out padded
    columns, so that they have neither probability nor a place in the normalisation. Temperature 0 takes
    the most probable token, the lowest id of equals, with its log-probability at temperature 1.

    A row that is no distribution (it holds NaN or +inf, or nothing but -inf) gets log-probability NaN;
    the caller knows whose row it is and refuses it.
    """
    dtype = torch.float64 if logits_BV.dtype == torch.float64 else torch.float32
    logits_BV = logits_BV[:, :vocab_size].to(dtype)
    if sampling.temperature == 0.0:
        log_prob_BV = logits_BV.log_softmax(dim=-1)
        token_B = log_prob_BV.argmax(dim=-1)
    else:
        log_prob_BV = (logits_BV / sampling.temperature).log_softmax(dim=-1)
        weight_BV = log_prob_BV.exp()
        if sampling.top_p < 1.0:
            weight_BV = weight_BV * nucleus(weight_BV, sampling.top_p)
        token_B = invert_cdf(weight_BV, uniform_B)
    top = log_prob_BV.topk(sampling.top_log_probs, dim=-1)
    return Drawn(token_B, log_prob_BV.gather(-1, token_B[:, None]).squeeze(-1), top.indices, top.values)


def nucleus(weight_BV: Tensor, top_p: float) -> Tensor:
    """True for the fewest tokens of largest weight that hold at least ``top_p`` of each row's total.

    Of equal weights the lower token id goes first. At least one token is always in.
    Holtzman et al. 2020, "The curious case of neural text degeneration", arXiv 1904.09751.
    """
    # A stable sort is what puts the lower id first.
    sorted_BV, order_BV = weight_BV.sort(dim=-1, descending=True, stable=True)
    mass_BV = sorted_BV.cumsum(dim=-1, dtype=torch.float64)
    mass_before_BV = mass_BV - sorted_BV
    # Relative to the total: rounding of the softmax must not admit one token more.
    inside_BV = mass_before_BV < top_p * mass_BV[:, -1:]
    return torch.zeros_like(inside_BV).scatter_(-1, order_BV, inside_BV)


def invert_cdf(weight_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """The first token, in order of id, whose cumulative weight exceeds ``uniform_B`` of the total."""
    mass_BV = weight_BV.cumsum(dim=-1, dtype=torch.float64)
    total_B1 = mass_BV[:, -1:]
    # The product can round up to the total, which no token's mass exceeds; the number just below it is
    # exceeded first by the last token that has any weight.
    target_B1 = (uniform_B[:, None] * total_B1).minimum(total_B1.nextafter(torch.zeros_like(total_B1)))
    token_B = torch.searchsorted(mass_BV, target_B1, right=True).squeeze(-1)
    # Only a row of NaN can end beyond the last token; it must still be an index.
    return token_B.clamp(max=mass_BV.shape[-1] - 1)


def require_sampling(sampling: SamplingParams, *, vocab_size: int) -> None:
    """Refuse parameters that no engine can follow."""
    if sampling.max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens must be 1 or more, got {sampling.max_new_tokens}")
    if not 0.0 <= sampling.temperature < float("inf"):
        raise ConfigError(f"temperature must be 0 (greedy) or above, got {sampling.temperature}")
    if not 0 <= sampling.top_log_probs <= vocab_size:
        raise ConfigError(
            f"top_log_probs must lie between 0 and the vocabulary of {vocab_size}, got "
            f"{sampling.top_log_probs}"
        )
    if not 0.0 < sampling.top_p <= 1.0:
        raise ConfigError(f"top_p must lie in (0, 1], got {sampling.top_p}; 1 switches it off")
    for token in sampling.stop_token_ids:
        if not 0 <= token < vocab_size:
            raise ModelError(
                f"stop token {token} lies outside the model's vocabulary of {vocab_size}, so no response "
                "could end by it; the tokenizer and the model belong to different folders"
            )


def require_prompts(
    requests: Sequence[RolloutRequest], *, max_new_tokens: int, vocab_size: int, context_length: int
) -> None:
    """Refuse the first prompt that the model cannot read, or that leaves no room for a whole response."""
    for request in requests:
        prompt = request.prompt
        if not prompt.tokens:
            raise DataError(f"prompt {prompt.id!r} has no tokens; give it at least a beginning-of-text token")
        for token in (min(prompt.tokens), max(prompt.tokens)):
            if not 0 <= token < vocab_size:
                raise DataError(
                    f"prompt {prompt.id!r} holds token {token}, outside the model's vocabulary of "
                    f"{vocab_size}; tokenise it with the model's own tokenizer"
                )
        if len(prompt.tokens) + max_new_tokens > context_length:
            raise DataError(
                f"prompt {prompt.id!r} has {len(prompt.tokens)} tokens; with max_new_tokens = "
                f"{max_new_tokens} it exceeds the model's context of {context_length}; shorten the prompt "
                "or lower rollout.max_new_tokens"
            )
