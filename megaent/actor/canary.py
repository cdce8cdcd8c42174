"""The canary: a few tokens of a batch computed a second time, by the reference backend.

A kernel that is wrong on one card, one driver or one shape does not stop a run, it spoils it. So now and
then some tokens are checked twice: the backend in use against the reference on the same logits, where
only the order of sums may differ, and what ``score`` delivered against the reference, where the
logits themselves may be rounded otherwise.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from megaent.errors import NumericsError
from megaent.ops import TokenStatistics, Vocabulary, logprob_entropy
from megaent.randomness import uniform

SAME_LOGITS = 1e-4
"""Nats: two orders of fp32 sums over a vocabulary of 150 thousand differ by less than a tenth of it."""

NUM_TOKENS = 64


def tokens_to_check(num_tokens: int, seed: int) -> Tensor:
    """Up to 64 places in [0, num_tokens), without repetition."""
    draws = uniform(torch.tensor(seed).expand(NUM_TOKENS), torch.arange(NUM_TOKENS))
    return (draws * num_tokens).long().unique()


@torch.no_grad()
def disagreement(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    delivered: TokenStatistics,
    *,
    temperature: float,
    shard: Vocabulary,
) -> Tensor:
    """[N] the largest difference of each token, as a multiple of what rounding explains: fine up to 1.

    ``delivered`` is what the trainer works with; the other arguments are those of
    ``linear_logprob_entropy``. NaN where a difference is NaN. Forms the logits of N tokens; a collective of
    ``group``.
    """
    assert shard.vocab_size is not None, "a padded vocabulary has a true size"
    logits_NV = hidden_ND @ weight_VD[: max(0, shard.vocab_size - shard.vocab_start)].T

    def statistics(backend: str | None) -> TokenStatistics:
        return logprob_entropy(
            logits_NV,
            target_N,
            temperature=temperature,
            **shard._asdict(),
            backend=backend,
        )

    in_use, truth = statistics(None), statistics("reference")
    largest = torch.zeros((), dtype=torch.float64, device=logits_NV.device)
    if logits_NV.numel():
        largest = logits_NV.abs().amax().double()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=shard.group)
    # Two roundings of each logit; dH/dz = -p (log p + H), so the entropy moves by at most 2 H as much.
    rounding = SAME_LOGITS + 2 * torch.finfo(logits_NV.dtype).eps * largest / temperature
    return torch.maximum(_ratio(in_use, truth, SAME_LOGITS), _ratio(delivered, truth, rounding))


def require_agreement(disagrees_T: Tensor) -> None:
    """Raises NumericsError when a checked token is off by more than rounding explains."""
    is_off_T = ~(disagrees_T <= 1)  # NaN is no agreement
    if bool(is_off_T.any()):
        place = int(is_off_T.nonzero()[0])
        raise NumericsError(
            f"the ops' backend and the reference disagree on {int(is_off_T.sum())} of the tokens checked: "
            f"on token {place} of the batch by {float(disagrees_T[place]):.3g} times what rounding explains. "
            "Set MEGAENT_OPS_BACKEND=reference to go on without the backend, and report its name, the "
            "device and the versions that `megaent doctor` prints"
        )


def _ratio(found: TokenStatistics, truth: TokenStatistics, allowed: float | Tensor) -> Tensor:
    log_prob_N = (found.log_prob.double() - truth.log_prob.double()).abs() / allowed
    entropy_N = (found.entropy.double() - truth.entropy.double()).abs()
    return torch.maximum(log_prob_N, entropy_N / (allowed * (1 + 2 * truth.entropy.double())))
