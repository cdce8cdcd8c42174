"""Which prompts a step asks: one seeded permutation an epoch, back to back, without any state.

The order of an epoch is a sort by a hash of (seed, epoch, prompt id), so what comes after any number of
prompts can be computed alone, and every rank agrees without a word. Where steps changed their size must be
known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from megaent.errors import DataError
from megaent.randomness import draw_seed
from megaent.types import Prompt

Sizes = tuple[tuple[int, int], ...]
"""From how many prompts on steps had which size, oldest first: ((0, 16), (800, 32))."""


class PromptSource(Protocol):
    """Endless prompts, some a step: a function of how many were asked before, the same on every rank."""

    @property
    def per_step(self) -> int: ...

    def part(self, ids: Sequence[str] | None, *, sizes: Sizes) -> PromptSource:
        """The same over some of its prompts (None: all), after steps of these sizes."""
        ...

    def take(self, before: int, *, leader: int = 0, leaders: int = 1) -> list[tuple[int, Prompt]]:
        """Leader r's of the step that begins after ``before`` prompts, each with its place in the step.

        Of each ``leaders`` places in a row it has the r-th.
        """
        ...


class PromptStream:
    """Endless prompts, ``per_step`` at a time; each prompt once an epoch and at most once a step.

    ``sizes`` ends with the present one; without it every step had it.
    """

    def __init__(
        self, prompts: Sequence[Prompt], *, per_step: int, seed: int, sizes: Sizes | None = None
    ) -> None:
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
        self._sizes = sizes or ((0, per_step),)
        start = self._sizes[-1][0]
        if len(prompts) < 2 * per_step and start % len(prompts):
            raise DataError(
                f"{start % len(prompts)} prompts of this epoch's {len(prompts)} were asked, and with "
                f"rollout.prompts_per_step={per_step} a step would ask some of them twice; choose "
                f"{len(prompts) // 2} or fewer"
            )
        self._seed = seed
        # The two epochs that a step can touch.
        self._order = lru_cache(maxsize=2)(self._epoch_order)

    @property
    def per_step(self) -> int:
        return self._per_step

    def part(self, ids: Sequence[str] | None, *, sizes: Sizes) -> PromptStream:
        """The same stream over some of its prompts (None: all), after steps of these sizes."""
        wanted = {prompt.id for prompt in self._prompts} if ids is None else set(ids)
        return PromptStream(
            [prompt for prompt in self._prompts if prompt.id in wanted],
            per_step=self._per_step,
            seed=self._seed,
            sizes=sizes,
        )

    def take(self, before: int, *, leader: int = 0, leaders: int = 1) -> list[tuple[int, Prompt]]:
        return [(place, self._at(before + place)) for place in range(leader, self._per_step, leaders)]

    def _at(self, cursor: int) -> Prompt:
        epoch, place = divmod(cursor, len(self._prompts))
        return self._prompts[self._order(epoch)[place]]

    def _epoch_order(self, epoch: int) -> list[int]:
        """A permutation whose head avoids what the step that began in the epoch before already holds."""
        order = self._shuffled(epoch)
        num_begun, size = self._step_across(epoch * len(order))
        if num_begun == 0:
            return order
        # Moving prompts back changes no more places than a step has, at most half of the epoch, so the
        # tail of the epoch before is that of its plain shuffle.
        held = set(self._shuffled(epoch - 1)[-num_begun:])
        head = [i for i in order if i not in held][: size - num_begun]
        first = set(head)
        return head + [i for i in order if i not in first]

    def _step_across(self, border: int) -> tuple[int, int]:
        """How many prompts of the step across the ``border`` lie before it, and the size of that step."""
        start, size = max(since for since in self._sizes if since[0] <= border)
        return (border - start) % size, size

    def _shuffled(self, epoch: int) -> list[int]:
        keys = [draw_seed(self._seed, "prompt order", epoch, prompt.id) for prompt in self._prompts]
        return sorted(range(len(keys)), key=keys.__getitem__)
