"""Which prompts a step asks: one seeded permutation an epoch, back to back, without any state.

The order of an epoch is a sort by a hash of (seed, epoch, prompt id), so any step can be computed
alone: a resumed run needs no cursor, and every rank agrees without a word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from megaent.errors import DataError
from megaent.randomness import draw_seed
from megaent.types import Prompt


class PromptStream:
    """Endless prompts, ``per_step`` at a time; each prompt once an epoch and at most once a step."""

    def __init__(self, prompts: Sequence[Prompt], *, per_step: int, seed: int) -> None:
        repeated = [name for name, count in Counter(p.id for p in prompts).items() if count > 1]
        if repeated:
            raise DataError(
                f"prompt ids must be unique, got {len(repeated)} of them twice, first {repeated[0]!r}"
            )
        if len(prompts) < 2 * per_step and (not prompts or len(prompts) % per_step):
            # A step across two epochs must find enough prompts that it does not hold already.
            raise DataError(
                f"{per_step} prompts a step need {per_step} training prompts, or {2 * per_step} and more, "
                f"got {len(prompts)}; lower rollout.prompts_per_step or give more prompts"
            )
        self._prompts = tuple(prompts)
        self._per_step = per_step
        self._seed = seed
        # The two epochs that a step can touch.
        self._order = lru_cache(maxsize=2)(self._epoch_order)

    @property
    def per_step(self) -> int:
        return self._per_step

    def only(self, ids: Sequence[str]) -> PromptStream:
        """The same stream over some of its prompts."""
        wanted = set(ids)
        return PromptStream(
            [prompt for prompt in self._prompts if prompt.id in wanted],
            per_step=self._per_step,
            seed=self._seed,
        )

    def take(self, step: int) -> list[tuple[int, Prompt]]:
        """The prompts of a step (counted from 0), each with its place 0 .. per_step - 1."""
        return [(place, self._at(step * self._per_step + place)) for place in range(self._per_step)]

    def _at(self, cursor: int) -> Prompt:
        epoch, place = divmod(cursor, len(self._prompts))
        return self._prompts[self._order(epoch)[place]]

    def _epoch_order(self, epoch: int) -> list[int]:
        """A permutation whose head avoids what the step that began in the epoch before already holds."""
        order = self._shuffled(epoch)
        num_begun = epoch * len(order) % self._per_step
        if num_begun == 0:
            return order
        # Moving prompts back changes the first ``per_step`` places only, so the tail of the epoch
        # before is that of its plain shuffle.
        held = set(self._shuffled(epoch - 1)[-num_begun:])
        head = [i for i in order if i not in held][: self._per_step - num_begun]
        first = set(head)
        return head + [i for i in order if i not in first]

    def _shuffled(self, epoch: int) -> list[int]:
        keys = [draw_seed(self._seed, "prompt order", epoch, prompt.id) for prompt in self._prompts]
        return sorted(range(len(keys)), key=keys.__getitem__)
