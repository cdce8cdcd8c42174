"""Whole scored batches with everything that any piece may read, the same however they are split."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from support.views import policy_view
from torch import Tensor

from megaent.experience.pack import SECOND_ROLLOUT, pack
from megaent.loop.method_state import MethodState, outcome
from megaent.objective.estimate import estimate
from megaent.objective.method import Method, Schedule
from megaent.objective.seen import Seen, tie_order
from megaent.randomness import draw_seed, uniform
from megaent.types import (
    Alone,
    Experience,
    Grade,
    Group,
    Metrics,
    PolicyView,
    Prompt,
    Response,
    TokenTerms,
)

VOCAB = 6  # so small that segments recur
TOP = 5
LONGEST = 40


def random_group(
    index: int, *, size: int, longest: int = LONGEST, seed: int = 0, share: float = 0.5
) -> Group:
    """``size`` responses of 1 to ``longest`` tokens; each is correct with probability ``share``."""

    rng = random.Random(draw_seed(seed, index))
    responses, grades = [], []
    for _ in range(size):
        length = rng.randint(1, longest)
        is_cut = length == longest
        is_correct = not is_cut and rng.random() < share
        responses.append(
            Response(
                tokens=tuple(rng.randrange(VOCAB) for _ in range(length)),
                log_prob=tuple(-2 * rng.random() - 0.01 for _ in range(length)),
                finish="length" if is_cut else "stop",
                version=1,
                top_tokens=(tuple(range(TOP)),) * length,
                top_log_prob=tuple(tuple(-0.5 - k - rng.random() for k in range(TOP)) for _ in range(length)),
            )
        )
        grades.append(Grade(reward=float(is_correct), correct=is_correct, answer="7" if is_correct else ""))
    prompt = Prompt(id=f"p{index % SECOND_ROLLOUT}", tokens=(1, 2), text="", answer="7")
    return Group(index=index, prompt=prompt, responses=tuple(responses), grades=tuple(grades))


def random_groups(seed: int, *, num_groups: int = 6, second: bool = False) -> list[Group]:
    """Mixed, all right, all wrong, and a group of one; with ``second`` also groups of a second rollout."""
    shares = [0.5, 1.0, 0.0, 0.3, 0.7]
    groups = [
        random_group(i, size=1 if i == 4 else 3 + (i + seed) % 3, seed=seed, share=shares[i % len(shares)])
        for i in range(num_groups)
    ]
    if second:
        groups += [random_group(SECOND_ROLLOUT + i, size=4, seed=seed) for i in range(2)]
    return groups


def scored_batch(groups: Sequence[Group], schedule: Schedule | None = None, *, seed: int = 0) -> Experience:
    """Packed, scored by hashes of each token's place; with the columns of a prompt history."""
    batch = pack(groups)
    order_T = tie_order(batch)

    def noise(purpose: str) -> Tensor:
        return uniform(torch.full_like(order_T, draw_seed(seed, purpose)), order_T)

    batch = replace(
        batch,
        log_prob_old=(-2.5 * noise("old") - 0.01).float(),
        log_prob_ref=(-2.5 * noise("ref") - 0.01).float(),
        entropy=(1.7 * noise("entropy").square()).float(),
        nucleus_entropy=(0.9 * noise("entropy").square() * noise("nucleus")).float(),
        closes_step=batch.token == 3,
        top_closes_step=batch.token == 4,
        is_second=(batch.index >= SECOND_ROLLOUT)[batch.group],
    )
    return batch if schedule is None else replace(batch, history=history_columns(groups, schedule))


def history_columns(
    groups: Sequence[Group], schedule: Schedule, *, num_prompts: int = 10
) -> dict[str, Tensor]:
    """As in the second step of a run of ``num_prompts``: ``p0`` to ``p9`` were met once before."""
    state = MethodState(schedule, [f"p{i}" for i in range(num_prompts)])
    if state.history is None:
        return {}
    state.history.commit(1, [outcome(random_group(i, size=4, seed=99)) for i in range(10)])
    state.history.commit(2, [outcome(group) for group in random_groups(0, num_groups=10)])
    return state.history.columns(2, [group.prompt.id for group in sorted(groups, key=lambda g: g.index)])


def minibatches(batch: Experience, count: int) -> Tensor:
    """[S] by the place of the prompt, so the same in every share."""
    return (batch.index % SECOND_ROLLOUT % count)[batch.group]


def applied(
    method: Method, schedule: Schedule, batch: Experience, *, num_minibatches: int = 1, **changes: Any
) -> tuple[TokenTerms, Metrics]:
    """``estimate`` in the middle of a run."""
    given = {
        "population": Alone(),
        "minibatch_S": minibatches(batch, num_minibatches),
        "num_minibatches": num_minibatches,
        "progress": 0.25,
        "coefs": MethodState(schedule, []).coefs(method),
    }
    return estimate(method, Seen(batch=batch, **(given | changes)))


def stepped_view(batch: Experience, terms: TokenTerms, *, seed: int = 5, spread: float = 0.3) -> PolicyView:
    """The whole batch as one microbatch after the policy has moved a little; in fp64."""
    assert batch.log_prob_old is not None
    number_T = terms.order
    moved_T = spread * (uniform(torch.full_like(number_T, draw_seed(seed, "moved")), number_T) - 0.5)
    entropy_T = uniform(torch.full_like(number_T, draw_seed(seed, "entropy")), number_T)
    nucleus_T = uniform(torch.full_like(number_T, draw_seed(seed, "nucleus")), number_T)
    return policy_view(
        log_prob=(batch.log_prob_old.double() + moved_T).requires_grad_(),
        entropy=entropy_T.requires_grad_(),
        nucleus_entropy=nucleus_T.requires_grad_(),
        log_prob_old=batch.log_prob_old.double(),
        log_prob_engine=batch.log_prob_engine.double(),
        log_prob_ref=None if batch.log_prob_ref is None else batch.log_prob_ref.double(),
        advantage=terms.advantage.double(),
        policy_weight=terms.policy_weight.double(),
        clip_low=terms.clip_low.double(),
        clip_high=terms.clip_high.double(),
        coefs={name: value.double() for name, value in terms.coefs.items()},
        mask=batch.mask,
        owner=batch.owner,
        num_responses=batch.num_responses,
        order=terms.order,
        population=Alone(),
    )


def gradients(method: Method, batch: Experience, terms: TokenTerms) -> tuple[Tensor, Tensor, Tensor]:
    """[T] weighted loss of each token, and its gradients by log-prob and by either entropy."""
    view = stepped_view(batch, terms)
    loss_T, _ = method.loss(view)
    weighted_T = torch.where(terms.weight != 0, terms.weight.double() * loss_T, 0.0)
    leaves = [view.log_prob, view.entropy, view.nucleus_entropy]
    found = torch.autograd.grad(weighted_T.sum(), leaves, allow_unused=True)
    zero_T = torch.zeros_like(weighted_T)
    by_log_prob, by_entropy, by_nucleus = (zero_T if grad is None else grad for grad in found)
    return weighted_T.detach(), by_log_prob, by_entropy + by_nucleus
