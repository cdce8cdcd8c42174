"""A batch held by one replica beside the same batch held by several."""

from __future__ import annotations

import torch
from support.batches import applied, random_groups, scored_batch
from support.builders import ThreadReplica, on_replicas
from torch import Tensor

from megaent.objective.method import Method, Schedule
from megaent.types import Experience, Group, Metrics, TokenTerms

PER_TOKEN = ("advantage", "weight", "policy_weight", "clip_low", "clip_high")


def groups_for(method: Method, seed: int) -> list[Group]:
    return random_groups(seed, second=method.second_rollout is not None)


def per_token(terms: TokenTerms) -> dict[str, Tensor]:
    coefs = {f"coef {name}": value for name, value in terms.coefs.items()}
    return {name: getattr(terms, name) for name in PER_TOKEN} | coefs


def assert_same_on_replicas(schedule: Schedule, method: Method, *, num_replicas: int) -> None:
    """To the bit, what every token learns and every metric."""
    groups = groups_for(method, seed=1)
    whole = scored_batch(groups, schedule)
    expected, told = applied(method, schedule, whole, num_minibatches=2)
    shares = [groups[i::num_replicas] for i in range(num_replicas)]

    def of_share(batch: Experience, replica: ThreadReplica) -> tuple[TokenTerms, Metrics]:
        return applied(method, schedule, batch, num_minibatches=2, population=replica)

    by_order = {}
    for terms, metrics in on_replicas(of_share, [scored_batch(share, schedule) for share in shares]):
        for name, value in metrics.items():
            assert value == told[name], name
        rows = zip(*[terms.order.tolist(), *[v.tolist() for v in per_token(terms).values()]], strict=True)
        by_order |= {row[0]: row[1:] for row in rows}
    assert by_order.keys() == set(expected.order.tolist())
    values = torch.tensor([by_order[order] for order in expected.order.tolist()], dtype=torch.float64)
    for column, (name, value) in enumerate(per_token(expected).items()):
        assert torch.equal(values[:, column], value.double()), name
