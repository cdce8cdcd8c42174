"""How long each verb of a step took, and how much memory."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from megaent.loop.memory import peak_gib, reset_peak
from megaent.types import Metrics

Verb = TypeVar("Verb", bound=Callable[..., Any])


class HasClock(Protocol):
    @property
    def clock(self) -> Clock: ...


def timed(verb: Verb) -> Verb:
    """Measure a verb of the step under its own name."""

    @functools.wraps(verb)
    def measured(self: HasClock, *args: Any, **kwargs: Any) -> Any:
        with self.clock.measure(verb.__name__):
            return verb(self, *args, **kwargs)

    return measured  # type: ignore[return-value]


class Clock:
    """Seconds and peak memory per verb of one step, a verb that is called again included."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._peaks: dict[str, float] = {}

    @contextmanager
    def measure(self, verb: str) -> Iterator[None]:
        reset_peak()
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[verb] = self._seconds.get(verb, 0.0) + time.perf_counter() - started
            self._peaks[verb] = max(self._peaks.get(verb, 0.0), peak_gib())

    def take(self) -> Metrics:
        """``time/<verb>_s`` and ``memory/<verb>_gib`` since the last call, with their sum and maximum."""
        seconds, peaks = self._seconds, self._peaks
        self._seconds, self._peaks = {}, {}
        return (
            {f"time/{verb}_s": value for verb, value in seconds.items()}
            | {f"memory/{verb}_gib": value for verb, value in peaks.items()}
            | {"time/step_s": sum(seconds.values()), "memory/peak_gib": max(peaks.values())}
        )


def rates(metrics: Metrics) -> Metrics:
    """Tokens a second of a step, from its token counts and times."""
    tokens = metrics["tokens/response"]
    return {
        "tokens/generated_per_s": tokens / max(metrics["time/generate_s"], 1e-9),
        "tokens/trained_per_s": (tokens + metrics["tokens/prompt"]) / max(metrics["time/update_s"], 1e-9),
        "tokens/per_s": tokens / max(metrics["time/step_s"], 1e-9),
    }
