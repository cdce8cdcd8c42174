"""A step's rows for the tables: of this rank's share of the batch, a few responses token by token.

Only the rank that writes metrics makes rows, and nothing is gathered for them: with several data-parallel
replicas ``groups``, ``responses`` and ``tokens`` are of the first one's share; ``steps`` and ``entropy`` are
of the whole batch, being sums that the step has taken already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from megaent.experience.describe import NUM_BINS, histogram_edges
from megaent.loop.trainer import StepReport
from megaent.objective.seen import first_of_group
from megaent.randomness import draw_seed, uniform
from megaent.report.tables import Columns
from megaent.types import Experience, TokenTerms

MOST_GROUPS = 256
MOST_TOKENS = 2048
"""Of a response: its first ones."""
MOST_CHARACTERS = 2000
"""Of a prompt, and of an answer key."""

_BINS = 64  # of the entropy table; each is NUM_BINS / _BINS of the step's own


class StepRows:
    """``spell`` gives the text of token ids; ``num_responses`` of each step are kept token by token."""

    def __init__(self, *, spell: Callable[[Sequence[int]], str], vocab_size: int, num_responses: int) -> None:
        self._text = lru_cache(maxsize=1 << 16)(lambda token: spell([token]))
        self._edges = histogram_edges(vocab_size)[:: NUM_BINS // _BINS].tolist()
        self._num_responses = num_responses

    def __call__(self, step: int, report: StepReport) -> dict[str, Columns]:
        batch = report.batch
        chosen = choose(batch, step, self._num_responses)
        return {
            "steps": _step_columns(step, report),
            "entropy": self._entropy(step, report.entropy_histogram),
            "groups": _group_columns(step, batch, report.terms),
            "responses": _response_columns(step, batch, chosen),
            "tokens": self._tokens(step, report, chosen),
        }

    def _entropy(self, step: int, histogram: Tensor) -> Columns:
        counts = histogram.view(_BINS, -1).sum(1).long().tolist()
        filled = [place for place, count in enumerate(counts) if count]
        return {
            "step": [step] * len(filled),
            "low": [self._edges[place] for place in filled],
            "high": [self._edges[place + 1] for place in filled],
            "tokens": [counts[place] for place in filled],
        }

    def _tokens(self, step: int, report: StepReport, chosen: Tensor) -> Columns:
        batch, terms = report.batch, report.terms
        assert batch.entropy is not None, "a step's batch is scored"
        assert batch.log_prob_old is not None, "a step's batch is scored"
        place_N = _tokens_of(batch, chosen)
        owner_N = batch.owner[place_N]
        token = batch.token[place_N].tolist()
        penalty_T = sum((coef_T.abs() for coef_T in terms.coefs.values()), torch.zeros_like(terms.advantage))
        numbers = {
            "entropy": batch.entropy,
            "log_prob": batch.log_prob_old,
            "log_prob_engine": batch.log_prob_engine,
            "advantage": terms.advantage,
            "weight": terms.policy_weight,
            "penalty": penalty_T,
            "covariance": _covariance(batch, terms),
        }
        return {
            "step": [step] * len(token),
            "prompt_id": [batch.prompts[group].id for group in batch.group[owner_N].tolist()],
            "response": _place_in_group(batch)[owner_N].tolist(),
            "position": batch.position[place_N].tolist(),
            "token": token,
            "text": [self._text(number) for number in token],
            "correct": batch.correct[owner_N].tolist(),
            "mask": batch.mask[place_N].tolist(),
            **{name: value_T[place_N].float().tolist() for name, value_T in numbers.items()},
            "segment": _segments(report, place_N),
        }


def choose(batch: Experience, step: int, count: int) -> Tensor:
    """[K] at most ``count`` responses, in the batch's order; each is as likely as any other."""
    seeds_S = torch.full((batch.num_responses,), draw_seed("tables", step))
    place_S = (batch.index[batch.group] << 16) + _place_in_group(batch)
    return uniform(seeds_S, place_S).argsort()[:count].sort().values


def _place_in_group(batch: Experience) -> Tensor:
    """[S] int64, place of the response among its siblings."""
    return torch.arange(batch.num_responses) - first_of_group(batch)[batch.group]


def _tokens_of(batch: Experience, chosen: Tensor) -> Tensor:
    """[N] places of the tokens of the chosen responses, at most MOST_TOKENS of each."""
    is_chosen_S = torch.zeros(batch.num_responses, dtype=torch.bool)
    is_chosen_S[chosen] = True
    return (is_chosen_S[batch.owner] & (batch.position < MOST_TOKENS)).nonzero().flatten()


def _covariance(batch: Experience, terms: TokenTerms) -> Tensor:
    """[T] ``(A - mean A) (log p - mean log p)``, means over the trained tokens of this share of the step."""
    assert batch.log_prob_old is not None, "a step's batch is scored"
    if not bool(batch.mask.any()):
        return torch.zeros_like(terms.advantage)
    advantage_T, log_prob_T = terms.advantage.double(), batch.log_prob_old.double()
    return (advantage_T - advantage_T[batch.mask].mean()) * (log_prob_T - log_prob_T[batch.mask].mean())


def _segments(report: StepReport, place_N: Tensor) -> list[str | None]:
    labels = report.labels.get("segment")
    if labels is None:
        return [None] * place_N.numel()
    return [labels.names[kind] for kind in labels.kind[place_N].tolist()]


def _step_columns(step: int, report: StepReport) -> Columns:
    names = sorted(report.metrics)
    return {
        "step": [step] * len(names),
        "metric": names,
        "value": [float(report.metrics[name]) for name in names],
    }


def _group_columns(step: int, batch: Experience, terms: TokenTerms) -> Columns:
    assert batch.entropy is not None, "a step's batch is scored"
    count = min(len(batch.prompts), MOST_GROUPS)
    right_T, group_T = batch.correct[batch.owner], batch.group[batch.owner]
    shown = batch.prompts[:count]

    def of_tokens(value_T: Tensor, where_T: Tensor) -> list[float | None]:
        return _means(value_T, group_T, where_T & batch.mask, len(batch.prompts))[:count]

    def of_responses(value_S: Tensor) -> list[float | None]:
        everywhere = torch.ones_like(batch.correct)
        return _means(value_S, batch.group, everywhere, len(batch.prompts))[:count]

    def sums(value_S: Tensor) -> list[int]:
        counted_P = torch.bincount(batch.group, weights=value_S.double(), minlength=len(batch.prompts))
        return counted_P.long()[:count].tolist()

    everywhere_T = torch.ones_like(batch.mask)
    return {
        "step": [step] * count,
        "place": batch.index[:count].tolist(),
        "prompt_id": [prompt.id for prompt in shown],
        "split": [prompt.split for prompt in shown],
        "responses": sums(torch.ones_like(batch.correct)),
        "correct": sums(batch.correct),
        "truncated": sums(batch.truncated),
        "reward": of_responses(batch.reward),
        "length": of_responses(batch.length),
        "entropy": of_tokens(batch.entropy, everywhere_T),
        "entropy_correct": of_tokens(batch.entropy, right_T),
        "entropy_incorrect": of_tokens(batch.entropy, ~right_T),
        "advantage_abs": of_tokens(terms.advantage.abs(), everywhere_T),
    }


def _means(value_N: Tensor, key_N: Tensor, where_N: Tensor, num_keys: int) -> list[float | None]:
    """[K] the mean of ``value_N`` by key over the entries that ``where_N`` names; None over nothing."""
    key_N, value_N = key_N[where_N], value_N[where_N].double()
    total = torch.bincount(key_N, weights=value_N, minlength=num_keys).tolist()
    count = torch.bincount(key_N, minlength=num_keys).tolist()
    return [one / many if many else None for one, many in zip(total, count, strict=True)]


def _response_columns(step: int, batch: Experience, chosen: Tensor) -> Columns:
    prompts = [batch.prompts[group] for group in batch.group[chosen].tolist()]
    return {
        "step": [step] * len(prompts),
        "prompt_id": [prompt.id for prompt in prompts],
        "response": _place_in_group(batch)[chosen].tolist(),
        "prompt": [prompt.text[:MOST_CHARACTERS] for prompt in prompts],
        "answer": [prompt.answer[:MOST_CHARACTERS] for prompt in prompts],
        "split": [prompt.split for prompt in prompts],
        "reward": batch.reward[chosen].tolist(),
        "correct": batch.correct[chosen].tolist(),
        "truncated": batch.truncated[chosen].tolist(),
        "length": batch.length[chosen].tolist(),
    }
