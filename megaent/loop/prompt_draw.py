"""The prompts of a step drawn by weight, without replacement, from what earlier steps told of each.

Every rank draws the same: the draw is a function of seed, step and prompt, the weights are those at the
end of the step before, and what they come from is in the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch

from megaent.data.curriculum import CurriculumOptions, difficulties
from megaent.errors import CheckpointError
from megaent.objective.semantic_entropy import semantic_entropy
from megaent.randomness import draw_seed, uniform
from megaent.types import Group, Prompt

KEPT = 0.5  # of what a prompt's earlier visits count, at each new one


class Visit(NamedTuple):
    """What a graded group tells of its prompt. Plain, so that replicas can send it to each other."""

    prompt_id: str
    correct: int
    responses: int
    entropy: float  # nats, of the answers


class Past(NamedTuple):
    """Of all visits: of accuracy what was right of how many; of entropy the last one and its bound, nats."""

    value: float
    of: float


def visit(group: Group) -> Visit:
    return Visit(
        group.prompt.id,
        correct=sum(grade.correct for grade in group.grades),
        responses=len(group.grades),
        entropy=semantic_entropy([grade.answer for grade in group.grades]),
    )


class PromptDraw:
    """``prompts`` in any order; ``label`` and the rest of ``options`` are in ``CurriculumOptions``."""

    def __init__(self, options: CurriculumOptions, prompts: Sequence[Prompt], *, seed: int) -> None:
        self.options, self._prompts = options, prompts
        ids = [prompt.id for prompt in prompts]
        self._place = {name: place for place, name in enumerate(ids)}
        self._seeds_P = torch.tensor([draw_seed(seed, "curriculum", name) for name in ids])
        self._weight_P = torch.ones(len(ids), dtype=torch.float64)
        self._past: dict[str, Past] = {}
        self._visits: list[Visit] = []  # of this step
        self._easiest_first = torch.arange(len(ids))
        if options.by == "difficulty":
            difficulty_P = torch.tensor(difficulties(prompts, options.label), dtype=torch.float64)
            by_draw = torch.argsort(self._seeds_P)  # ties in no order of the file
            self._easiest_first = by_draw[torch.argsort(difficulty_P[by_draw], stable=True)]

    def take(
        self, step: int, attempt: int, *, per_step: int, progress: float, leader: int, leaders: int
    ) -> list[tuple[int, Prompt]]:
        """As ``PromptSource.take``; another ``attempt`` of a step asks others. ``progress`` is in [0, 1)."""
        wanted = (attempt + 1) * per_step
        chosen = self._drawn(step, wanted, self._num_open(per_step, progress))[attempt * per_step :]
        return [(place, self._prompts[chosen[place]]) for place in range(leader, len(chosen), leaders)]

    def note(self, visits: Iterable[Visit]) -> None:
        """Counts from the next step on."""
        self._visits += visits

    def settle(self) -> None:
        """At the end of a step. Of several visits to a prompt in a step the first counts."""
        first = {seen.prompt_id: seen for seen in reversed(self._visits)}
        for name, seen in first.items():
            self._past[name] = self._after(self._past.get(name, Past(0.0, 0.0)), seen)
            self._weight_P[self._place[name]] = self._weight(self._past[name])
        self._visits = []

    # ------------------------------------------------------------ weights

    def _drawn(self, step: int, wanted: int, num_open: int) -> list[int]:
        """Places of the prompts with the largest ``log(u) / weight`` (Efraimidis and Spirakis 2006).

        Attempts that want more than are open get the easiest of the others behind them.
        """
        open_P, others_P = self._easiest_first[:num_open], self._easiest_first[num_open:wanted]
        counter_P = torch.full_like(open_P, step)
        key_P = uniform(self._seeds_P[open_P], counter_P).log() / self._weight_P[open_P]
        drawn_P = open_P[torch.argsort(key_P, descending=True, stable=True)]
        return torch.cat((drawn_P, others_P))[:wanted].tolist()

    def _num_open(self, per_step: int, progress: float) -> int:
        """The same for all attempts of a step."""
        if self.options.by != "difficulty":
            return len(self._prompts)
        start, grown = self.options.start, min(progress / self.options.until, 1.0)
        return max(round((start + (1 - start) * grown) * len(self._prompts)), per_step)

    def _after(self, past: Past, seen: Visit) -> Past:
        if self.options.by == "accuracy":
            return Past(KEPT * past.value + seen.correct, KEPT * past.of + seen.responses)
        return Past(seen.entropy, math.log(seen.responses))

    def _weight(self, past: Past) -> float:
        """1 for what teaches most.

        Of the accuracy p, under a uniform prior, ``4 p (1 - p)``: the learnability of Foster et al. 2025,
        arXiv:2502.12272, who take the most learnable of a sample where we draw by weight. Of the semantic
        entropy its share of the largest possible.
        """
        if self.options.by == "accuracy":
            p = (past.value + 1) / (past.of + 2)
            return max(4 * p * (1 - p), self.options.floor)
        return max(past.value / past.of, self.options.floor)

    # ------------------------------------------------------------ in a checkpoint

    def state(self) -> dict[str, object]:
        past = {name: list(known) for name, known in sorted(self._past.items())}
        return {"by": self.options.by, "past": past}

    def load_state(self, state: Mapping[str, object]) -> None:
        """Raises CheckpointError for the state of another curriculum or of other prompts."""
        past = state["past"]
        assert isinstance(past, dict), "written by state()"
        if state["by"] != self.options.by or not past.keys() <= self._place.keys():
            raise CheckpointError(
                f"the checkpoint's curriculum is by {state['by']!r} and knows {len(past)} prompts, this "
                f"run's is by {self.options.by!r} over {len(self._prompts)}; resume with the same "
                "data.curriculum"
            )
        self._past = {name: Past(*values) for name, values in past.items()}
        for name, known in self._past.items():
            self._weight_P[self._place[name]] = self._weight(known)
