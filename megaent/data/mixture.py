"""Sets of prompts in memory, mixed by weight in the order that shards have (``megaent.shards.stream``)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from threading import Lock
from typing import overload

from megaent.data.prompts import Sizes
from megaent.data.task import PromptSets, longest_of
from megaent.errors import DataError
from megaent.shards.stream import Source, Stream
from megaent.types import Prompt


class MixedPrompts(PromptSets):
    """The prompts of all sets, one set after the other; ``shares`` in the order of ``sets``."""

    def __init__(self, sets: Mapping[str, Sequence[Prompt]], shares: Sequence[float]) -> None:
        self.sets, self.shares = {name: tuple(prompts) for name, prompts in sets.items()}, tuple(shares)
        self._prompts = [prompt for prompts in self.sets.values() for prompt in prompts]
        self.num_sets = len(self.sets)
        self.longest = longest_of(self._prompts)

    @cached_property
    def digest(self) -> str:  # type: ignore[override]
        told = [
            [share, sorted((prompt.id, prompt.answer) for prompt in prompts)]
            for prompts, share in zip(self.sets.values(), self.shares, strict=True)
        ]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._prompts)

    @overload
    def __getitem__(self, place: int) -> Prompt: ...
    @overload
    def __getitem__(self, place: slice) -> list[Prompt]: ...
    def __getitem__(self, place: int | slice) -> Prompt | list[Prompt]:
        return self._prompts[place]

    def stream(self, *, per_step: int, seed: int) -> MixedStream:
        return MixedStream(self.sets, self.shares, per_step=per_step, seed=seed)


class MixedStream:
    """A ``PromptSource``: each prompt of a set once an epoch of it, and none twice within a step.

    Raises DataError for a set that is too small for that.
    """

    def __init__(
        self, sets: Mapping[str, Sequence[Prompt]], shares: Sequence[float], *, per_step: int, seed: int
    ) -> None:
        self._sets, self._shares, self._per_step, self._seed = sets, tuple(shares), per_step, seed
        self._prompts = list(sets.values())
        sources = [
            Source(size=len(prompts), digest=name, weight=share)
            for (name, prompts), share in zip(sets.items(), shares, strict=True)
        ]
        for source in sources:
            require_enough(source.digest, source, per_step)
        # One window over the largest set: every epoch is a permutation of the whole set.
        self._order = Stream(sources, seed=seed, window=max(map(len, self._prompts)))
        self._lock = Lock()

    @property
    def per_step(self) -> int:
        return self._per_step

    def part(self, ids: Sequence[str] | None, *, sizes: Sizes) -> MixedStream:
        """``sizes`` do not matter: the order does not know of steps."""
        wanted = None if ids is None else set(ids)
        chosen = {
            name: [prompt for prompt in prompts if wanted is None or prompt.id in wanted]
            for name, prompts in self._sets.items()
        }
        kept = [(name, share) for name, share in zip(chosen, self._shares, strict=True) if chosen[name]]
        return MixedStream(
            {name: chosen[name] for name, _ in kept},
            [share for _, share in kept],
            per_step=self._per_step,
            seed=self._seed,
        )

    def take(self, before: int, *, leader: int = 0, leaders: int = 1) -> list[tuple[int, Prompt]]:
        with self._lock:
            self._order.seek(before)
            places = self._order.take(self._per_step)
        asked = [self._prompts[place.source][place.number] for place in places]
        return list(enumerate(asked))[leader::leaders]


def require_enough(name: str, source: Source, per_step: int) -> None:
    """A mixture gives at most a few more than a set's share in a step. Raises DataError."""
    most = min(per_step, math.ceil(source.weight * per_step) + 3)
    if source.apart < most:
        raise DataError(
            f"{name} has {source.size} training prompts, and with rollout.prompts_per_step="
            f"{per_step} up to {most} of them are asked in a step, which needs {3 * most}; lower "
            "rollout.prompts_per_step (at most 4096) or the weight of the set, or give more prompts"
        )
