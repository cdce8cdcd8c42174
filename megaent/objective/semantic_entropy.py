"""How much a model disagrees with itself about a prompt, and prompts in stages of rising disagreement.

SENT, arXiv:2512.04359: responses with equal answers form one cluster; the entropy is taken over clusters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

from megaent.types import Response

WEIGHTS = ("count", "log_prob", "mean_log_prob")

_Id = TypeVar("_Id", str, int)


def response_log_weight(response: Response, weights: str) -> float:
    """What a response weighs in its cluster, as a natural log.

    count: all the same. log_prob: its probability (the paper); for long responses the likeliest one then
    outweighs all others. mean_log_prob: the geometric mean of its tokens' probabilities.
    """
    match weights:
        case "count":
            return 0.0
        case "log_prob":
            return math.fsum(response.log_prob)
        case "mean_log_prob":
            return math.fsum(response.log_prob) / max(len(response.log_prob), 1)
    raise ValueError(f"weights must be one of {', '.join(WEIGHTS)}, got {weights!r}")


def cluster_probabilities(
    answers: Sequence[str], log_weight: Sequence[float] | None = None
) -> dict[str, float]:
    """Answer -> its share of the weight; responses without an answer ("") form one cluster.

    ``log_weight`` in nats, one per answer; None weighs all the same.
    """
    if log_weight is None:
        log_weight = [0.0] * len(answers)
    if len(answers) != len(log_weight) or not answers:
        raise ValueError(
            f"semantic entropy needs one weight for each of one or more answers, got {len(answers)} answers "
            f"and {len(log_weight)} weights"
        )
    # Log-probs of long responses underflow as probabilities; only their differences matter.
    largest = max(log_weight)
    shares: dict[str, list[float]] = {}
    for answer, weight in zip(answers, log_weight, strict=True):
        shares.setdefault(answer, []).append(math.exp(weight - largest))
    total = math.fsum(share for members in shares.values() for share in members)
    return {answer: math.fsum(members) / total for answer, members in shares.items()}


def semantic_entropy(answers: Sequence[str], log_weight: Sequence[float] | None = None) -> float:
    """Nats, in [0, ln(number of answers)]: 0 when all answers agree."""
    shares = cluster_probabilities(answers, log_weight).values()
    return -math.fsum(share * math.log(share) for share in shares if share > 0) + 0.0


def curriculum_stages(
    entropy: Mapping[_Id, float], num_stages: int, *, drop_uniform: bool = False
) -> list[list[_Id]]:
    """Prompt ids in ascending order of semantic entropy, ties by id, split in stages of equal size.

    Where the number does not divide, earlier stages hold one more. ``drop_uniform`` leaves out prompts
    of entropy 0: always right, or always wrong in the same way.
    """
    kept = {id_: value for id_, value in entropy.items() if value > 0 or not drop_uniform}
    if not 1 <= num_stages <= len(kept):
        raise ValueError(
            f"{len(kept)} prompts (of {len(entropy)}) cannot make {num_stages} stages of one prompt or more; "
            "choose fewer stages" + (", or keep the prompts of entropy 0" if drop_uniform else "")
        )
    ordered = sorted(kept, key=lambda id_: (kept[id_], id_))
    size, extra = divmod(len(ordered), num_stages)
    ends = [stage * size + min(stage, extra) for stage in range(num_stages + 1)]
    return [ordered[start:stop] for start, stop in pairwise(ends)]
