"""Worked cases of the primitives and of the policy terms; see ``golden_baselines`` for the form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from support.golden_inputs import experience, flat, numbers, rows_of, seen, tokens, view

from megaent.methods.cispo import cispo
from megaent.methods.gspo import gspo
from megaent.objective.aggregations import ConstantLength, ResponseMean, TokenMean
from megaent.objective.cores import Clipped, SequenceClipped, Unclipped
from megaent.objective.method import Loss
from megaent.objective.terms import ESTIMATORS, entropy_bonus, kl
from megaent.ops.backend import get_backend
from megaent.types import Experience, PolicyView

Inputs = dict[str, Any]
Found = dict[str, Any]


def one_response(num_tokens: int, **given: Any) -> Experience:
    return experience([num_tokens], **given)


def _padded(inputs: Inputs, name: str = "mask") -> tuple[list[int], list[int]]:
    """Row lengths with their padding, and the flat mask that leaves the padding out."""
    rows = inputs[name]
    return [len(row) for row in rows], flat(rows)


# ---------------------------------------------------------------- primitives


def entropy(inputs: Inputs) -> Found:
    """From the partial statistics of each vocabulary shard; each id in turn is the target."""
    shards = inputs.get("shards") or [inputs["logits"]]
    size = sum(map(len, shards))
    backend, partials, start = get_backend("reference"), [], 0
    for shard in shards:
        logits = numbers(shard).expand(size, len(shard))
        partials.append(
            backend.logits_stats(
                logits, torch.arange(size), vocab_start=start, inv_temperature=1.0, moments=False
            )
        )
        start += len(shard)
    log_prob, values = backend.stats_combine(partials, inv_temperature=1.0)[:2]
    return {"H": float(values[0]), "p": log_prob.exp().tolist()}


def kl_estimators(inputs: Inputs) -> Found:
    return {
        name: kl(numbers(inputs["logp"]), numbers(inputs["logref"]), name).tolist() for name in ESTIMATORS
    }


def aggregations(inputs: Inputs) -> Found:
    lengths, mask = _padded(inputs)
    batch = experience(lengths, mask=mask)
    loss = numbers(flat(inputs["loss"]))

    def mean(rule: TokenMean | ResponseMean | ConstantLength) -> float:
        return float((rule(seen(batch)) * loss).sum())

    const = inputs.get("const", 1)
    return {
        "token-mean": mean(TokenMean()),
        "seq-mean-token-mean": mean(ResponseMean()),
        "seq-mean-token-sum": mean(ConstantLength(length=1)),
        "seq-sum-token-sum-const": mean(ConstantLength(length=const)) * len(lengths),
        "dr-grpo": mean(ConstantLength(length=const)),
    }


# ---------------------------------------------------------------- policy terms


def ratio_view(log_ratio: Sequence[float], adv: Sequence[float], clip: Any) -> PolicyView:
    """Of one response, by the logarithms of its tokens' ratios."""
    log_prob = numbers(log_ratio) - 1.0  # of the old policy every token has -1
    return view(one_response(len(log_ratio)), adv, log_prob, clip=clip)


def ppo(inputs: Inputs) -> Found:
    low, high = inputs.get("eps_low", 0.2), inputs.get("eps_high", 0.2)
    core = Clipped(low=low, high=high, dual=inputs.get("c", 3.0))
    loss, _ = core(ratio_view(inputs["log_ratio"], inputs["adv"], (low, high)))
    return {"loss": loss.tolist()}


def gspo_loss(inputs: Inputs) -> Found:
    lengths, mask = (
        _padded(inputs) if "mask" in inputs else _padded({"mask": [[1] * len(r) for r in inputs["logp"]]})
    )
    core = gspo().core
    assert isinstance(core, SequenceClipped), "GSPO insists on its core"
    low, high = inputs.get("eps") or (core.low, core.high)
    batch = experience(lengths, mask=mask, log_prob_old=flat(inputs["old"]))
    seen_by_loss = view(batch, flat(inputs["adv"]), flat(inputs["logp"]), clip=(low, high))
    loss, _ = SequenceClipped(low=low, high=high)(seen_by_loss)
    ratio = seen_by_loss.response_mean(seen_by_loss.log_ratio).exp()
    first = [int(n) for n in batch.length.cumsum(0) - batch.length]
    return {
        "loss": rows_of((loss * batch.mask).detach(), lengths),
        "seq_ratio": [float(ratio[place]) for place in first],
    }


def cispo_coef(inputs: Inputs) -> Found:
    """The coefficient of log pi is minus the gradient of the loss."""
    core = cispo(clip_low=inputs.get("eps_low", 1.0), clip_high=inputs.get("eps_high", 2.0)).core
    assert core is not None, "CISPO insists on its core"
    batch = one_response(len(inputs["adv"]))
    low, high = core.bounds(tokens(batch, inputs["adv"]))
    of_loss = ratio_view(inputs["log_ratio"], inputs["adv"], (low, high))
    loss, _ = core(of_loss)
    (grad,) = torch.autograd.grad(loss.sum(), of_loss.log_prob)
    return {"coef": (-grad).tolist(), "loss": loss.tolist()}


def bonus(inputs: Inputs) -> Found:
    rows = inputs["H"]
    mask = flat(inputs.get("mask") or [[1] * len(row) for row in rows])
    batch = experience([len(row) for row in rows], mask=mask, entropy=flat(rows))
    terms = entropy_bonus(inputs.get("coef", 1e-3))
    coefs = {term.name: term.coef(tokens(batch), seen(batch)) for term in terms}
    loss_N, _ = Loss(core=Unclipped(), terms=terms)(view(batch, coefs=coefs))  # advantages are 0
    added = (TokenMean()(seen(batch)) * loss_N.detach()).sum()
    return {"loss": inputs.get("pg_loss", 0.0) + float(added)}


FAMILIES: dict[str, Callable[[Inputs], Found]] = {
    "prim.entropy": entropy,
    "prim.kl": kl_estimators,
    "prim.agg": aggregations,
    "ppo": ppo,
    "gspo": gspo_loss,
    "cispo": cispo_coef,
    "entbonus": bonus,
}
