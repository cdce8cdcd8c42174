"""A method applied to a scored batch: one number per token and term, no gradient."""

from __future__ import annotations

import torch

from megaent.objective.method import Method
from megaent.objective.seen import Notes, Seen, Tokens, batch_tokens
from megaent.types import Metrics, TokenTerms


def shaped_rewards(method: Method, seen: Seen) -> torch.Tensor:
    """[S] the rewards after the method's reward terms."""
    reward_S = seen.batch.reward
    for term in method.rewards:
        reward_S = term(reward_S, seen)
    return reward_S


def estimate(method: Method, seen: Seen) -> tuple[TokenTerms, Metrics]:
    """Reduce ``method`` to per-token terms on a scored batch; nothing is changed in place.

    Every replica calls it on its share and gets its share's terms; the metrics are the population's.
    Raises ValueError when the batch was not scored.
    """
    batch = seen.batch
    if batch.log_prob_old is None or batch.entropy is None:
        raise ValueError(
            "estimate needs a scored batch: log_prob_old and entropy are missing; call score first"
        )
    reward_S = shaped_rewards(method, seen)
    advantage_S = method.advantage(reward_S, seen)
    advantage_T = advantage_S[batch.owner].to(batch.log_prob_old.dtype)
    for shape in method.shaping:
        advantage_T = shape(advantage_T, seen)
    tokens = batch_tokens(seen, advantage_T)
    policy_weight_T = torch.ones_like(advantage_T)
    for rule in method.loss.weights:
        if rule.scope == "mini":
            policy_weight_T = policy_weight_T * rule(tokens, seen)
    coefs = {
        term.name: term.coef(tokens, seen).to(advantage_T.dtype)
        for term in method.loss.terms
        if term.coef.scope == "mini"
    }
    low_T, high_T = method.loss.core.bounds(tokens)
    terms = TokenTerms(
        advantage=advantage_T,
        weight=method.aggregation(seen).to(advantage_T.dtype),
        minibatch=_without_silent(method, tokens, policy_weight_T, coefs),
        order=tokens.order,
        policy_weight=policy_weight_T,
        clip_low=low_T,
        clip_high=high_T,
        coefs=coefs,
    )
    _note(seen.notes, seen, terms, reward_S, advantage_S)
    return terms, seen.notes.reduce(seen.population)


def _without_silent(
    method: Method, tokens: Tokens, policy_weight_T: torch.Tensor, coefs: dict[str, torch.Tensor]
) -> torch.Tensor:
    """[T] the minibatch, -1 where every token of it on every replica was weighed with 0.

    No optimizer step is taken for those: EGRC's compress phase without a single correct response.
    """
    if any(term.coef.scope == "micro" for term in method.loss.terms):
        return tokens.minibatch
    heard_T = policy_weight_T != 0
    for coef_T in coefs.values():
        heard_T = heard_T | (coef_T != 0)
    is_silent_M = tokens.total(heard_T) == 0
    return torch.where(tokens.spread(is_silent_M), -1, tokens.minibatch)


def _note(
    notes: Notes, seen: Seen, terms: TokenTerms, reward_S: torch.Tensor, advantage_S: torch.Tensor
) -> None:
    batch = seen.batch
    assert batch.log_prob_old is not None, "estimate checked it"
    notes.mean("advantage/mean_abs", advantage_S.abs())
    notes.mean("advantage/nonzero", advantage_S != 0)
    notes.mean("reward/shaped", reward_S)
    notes.mean("policy_weight/mean", terms.policy_weight, batch.mask)
    notes.mean("entropy/sampled", -batch.log_prob_old, batch.mask)
