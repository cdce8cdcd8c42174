"""A fleet simulated event by event: engines that decode responses of drawn lengths, a trainer, and failures.

The closed forms of ``generation`` and ``step`` say what a step takes in the mean; this says what happens when
the slowest of some thousand responses, a publication and a lost card meet. Batches run ahead of training as
``megaent.loop.ahead`` lets them.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from math import inf
from random import Random
from typing import Protocol

from megaent.errors import ConfigError

PARTS = ("full engines", "slowest responses", "training", "publication")
_FEW = 0.1  # of a batch: what a trainer waits for after that are its slowest responses


class LengthSource(Protocol):
    def draw(self, random: Random) -> int:
        """Tokens of one response."""
        ...


@dataclass(frozen=True, slots=True)
class ObservedLengths:
    """Lengths of a run's responses, drawn again with equal chances."""

    tokens: tuple[int, ...]

    def draw(self, random: Random) -> int:
        return random.choice(self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """Of cards, at random times that do not depend on each other. 0 an hour: none."""

    per_card_hour: float = 0.0
    engine_cards: int = 1  # of one engine
    trainer_cards: int = 1  # of all of them
    restart_s: float = 300.0
    checkpoint_every: int = 10  # steps; a trainer that fails goes on from the last


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """``token_s`` are the seconds of one more token of each of (responses, tokens of context in the mean).

    An engine that ``drains`` ends what it has before it takes new weights, as the embedded one does; servers
    take them in the middle of a response.
    """

    engines: int
    room: int  # responses that one engine decodes at once; the others wait
    token_s: Callable[[float, float], float]
    lengths: LengthSource
    prompts: int
    group: int
    prompt_tokens: float
    train_s: float  # score, reference and update of a step
    publish_s: float
    staleness: int = 0
    drains: bool = False
    failures: Failures = field(default_factory=Failures)

    def __post_init__(self) -> None:
        if min(self.engines, self.room, self.prompts, self.group) < 1:
            raise ConfigError(
                f"a fleet needs engines, room, prompts and responses of 1 or more, got {self.engines}, "
                f"{self.room}, {self.prompts} and {self.group}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Means a step. ``parts`` are what the trainer does or waits for; they add up to ``seconds``."""

    seconds: float
    parts: dict[str, float]
    busy: float  # share of the engines' time in which they decode
    responses: float  # in an engine that decodes, mean over time
    failures: int  # in all

    @property
    def limit(self) -> str:
        return max(self.parts, key=lambda name: self.parts[name])


def simulate(fleet: Fleet, *, steps: int, seed: int = 0) -> Outcome:
    """``steps`` are counted after a fleet's first, which begin with empty engines."""
    loop = _Loop(fleet, seed)
    loop.run(2 * (fleet.staleness + 1))
    loop.start_counting()
    loop.run(steps)
    return loop.outcome(steps)


class _Loop:
    """The trainer's side. Time is in seconds since the start."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self._fleet = fleet
        self._random = Random(seed)
        self._engines = _Engines(fleet, self._random)
        self._step = self._saved = 0
        self._fails_at = self._next_failure()
        self.start_counting()

    def run(self, steps: int) -> None:
        until = self._step + steps
        while self._step < until:
            begun, parts = self._engines.now, self._take_step(self._step + 1)
            if self._engines.now >= self._fails_at:
                self._fall_back(begun)
                continue
            self._step += 1
            self._parts[self._step] = parts  # of the last time, where it was taken again
            if self._step % self._fleet.failures.checkpoint_every == 0:
                self._saved = self._step

    def start_counting(self) -> None:
        self._begun, self._failed = self._engines.now, 0
        self._parts: dict[int, dict[str, float]] = {}
        self._engines.start_counting()

    def outcome(self, steps: int) -> Outcome:
        """Of what was done since ``start_counting``."""
        whole = self._engines.now - self._begun
        self._engines.count_all()
        parts = {name: sum(of[name] for of in self._parts.values()) / steps for name in PARTS}
        if self._failed:
            parts["failures"] = whole / steps - sum(parts.values())
        return Outcome(
            seconds=whole / steps,
            parts=parts,
            busy=self._engines.busy_s / (whole * self._fleet.engines),
            responses=self._engines.response_s / max(self._engines.busy_s, 1e-12),
            failures=self._failed + self._engines.failed,
        )

    def _take_step(self, step: int) -> dict[str, float]:
        """Seconds in which the trainer waits, trains and publishes."""
        fleet, engines = self._fleet, self._engines
        engines.start(step)
        full, slowest = engines.wait_for(step)
        for later in range(step + 1, step + fleet.staleness + 1):
            engines.start(later)
        engines.pass_time(fleet.train_s)
        trained = engines.now
        if fleet.drains:
            engines.wait_for(step + fleet.staleness)
        engines.pass_time(fleet.publish_s)
        return dict(zip(PARTS, (full, slowest, fleet.train_s, engines.now - trained), strict=True))

    def _fall_back(self, begun: float) -> None:
        """To the last checkpoint: what was learnt or drawn since then is lost, and so is this step."""
        self._failed += 1
        self._step = self._saved
        self._engines.begin_anew(max(begun, self._fails_at) + self._fleet.failures.restart_s)
        self._fails_at = self._next_failure()

    def _next_failure(self) -> float:
        failures = self._fleet.failures
        rate = failures.per_card_hour * failures.trainer_cards / 3600
        return self._engines.now + (self._random.expovariate(rate) if rate else inf)


class _Engines:
    """All engines on one clock; a group goes to the one with least to do."""

    def __init__(self, fleet: Fleet, random: Random) -> None:
        self._fleet, self._random = fleet, random
        self._number = count()
        self._rate = fleet.failures.per_card_hour * fleet.failures.engine_cards * fleet.engines / 3600
        self.busy_s = self.response_s = 0.0
        self.begin_anew(0.0)
        self.start_counting()

    def begin_anew(self, now: float) -> None:
        self.now = now
        self._all = [_Engine(self._fleet, now) for _ in range(self._fleet.engines)]
        self._left: dict[int, int] = {}
        self._events: list[_Entry] = []
        self._loads: list[_Entry] = []
        for engine in self._all:
            self._expect(engine)
        self._fails_at = self._next_failure()

    def start_counting(self) -> None:
        self.count_all()
        self.busy_s = self.response_s = 0.0
        self.failed = 0

    def count_all(self) -> None:
        for engine in self._all:
            self._count(engine)

    def start(self, batch: int) -> None:
        """Its responses, where they are not under way or done."""
        if batch in self._left:
            return
        fleet = self._fleet
        self._left[batch] = fleet.prompts * fleet.group
        for _ in range(fleet.prompts):
            self._send([(fleet.lengths.draw(self._random), batch) for _ in range(fleet.group)])

    def wait_for(self, batch: int) -> tuple[float, float]:
        """Seconds until a few of its responses are left, and from there to its last."""
        begun, few = self.now, _FEW * self._fleet.prompts * self._fleet.group
        while self._left[batch] > few:
            self._next(inf)
        nearly = self.now
        while self._left[batch]:
            self._next(inf)
        return nearly - begun, self.now - nearly

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self._next(end):
            pass
        self.now = end

    def _next(self, limit: float) -> bool:
        """Whether something happened up to ``limit``: a response ended, or an engine failed."""
        while self._events and self._events[0][3] != self._events[0][2].version:
            heapq.heappop(self._events)
        ends_at = self._events[0][0] if self._events else inf
        if min(ends_at, self._fails_at) > limit:
            return False
        if self._fails_at < ends_at:
            self._fail()
            return True
        self.now, _, engine, _ = heapq.heappop(self._events)
        self._count(engine)
        self._left[engine.end_first()] -= 1
        self._expect(engine)
        return True

    def _fail(self) -> None:
        """An engine begins anew after a while; what it had begun, others do again."""
        self.now, self.failed = self._fails_at, self.failed + 1
        engine = self._random.choice(self._all)
        self._count(engine)
        lost = engine.lose(self.now + self._fleet.failures.restart_s)
        self._fails_at = self._next_failure()
        self._expect(engine)
        for request in lost:
            self._send([request])

    def _send(self, requests: list[tuple[int, int]]) -> None:
        engine = self._with_least_to_do()
        self._count(engine)
        engine.take(requests, self.now)
        self._expect(engine)

    def _with_least_to_do(self) -> _Engine:
        """Of those that are up; of none, the one that will be first."""
        down = []
        while self._loads:
            entry = heapq.heappop(self._loads)
            _, _, engine, version = entry
            if version == engine.version and engine.free_at <= self.now:
                break
            if version == engine.version:
                down.append(entry)
        else:
            engine = min(self._all, key=lambda one: (one.free_at, one.load))
        for entry in down:
            heapq.heappush(self._loads, entry)
        return engine

    def _expect(self, engine: _Engine) -> None:
        """Its next end and its load, in place of what was known of them."""
        engine.version += 1
        heapq.heappush(self._loads, (engine.load, next(self._number), engine, engine.version))
        if engine.load:
            heapq.heappush(self._events, (engine.first_end, next(self._number), engine, engine.version))

    def _count(self, engine: _Engine) -> None:
        """Moves its clock to now, and counts what it has done until then."""
        seconds = engine.advance(self.now)
        if engine.running:
            self.busy_s += seconds
            self.response_s += seconds * len(engine.running)

    def _next_failure(self) -> float:
        return self.now + (self._random.expovariate(self._rate) if self._rate else inf)


class _Engine:
    """Decodes all that it has at one pace: a token of each at a time. ``place`` counts those tokens."""

    def __init__(self, fleet: Fleet, now: float) -> None:
        self._fleet = fleet
        self.clock = self.free_at = now
        self.version = 0
        self.running: list[tuple[float, float, int]] = []  # place of the end, of the start, batch
        self._waiting: deque[tuple[int, int]] = deque()
        self._place = self._starts = 0.0

    @property
    def load(self) -> int:
        return len(self.running) + len(self._waiting)

    @property
    def first_end(self) -> float:
        return self.clock + (self.running[0][0] - self._place) * self._pace()

    def take(self, requests: list[tuple[int, int]], now: float) -> None:
        self.advance(max(now, self.free_at))
        self._waiting.extend(requests)
        self._fill()

    def end_first(self) -> int:
        """The batch that the response which ends now is of."""
        end, start, batch = heapq.heappop(self.running)
        self._place, self._starts = end, self._starts - start
        self._fill()
        return batch

    def lose(self, free_at: float) -> list[tuple[int, int]]:
        """All that it had, to be drawn from the start."""
        lost = [(int(end - start), batch) for end, start, batch in self.running] + list(self._waiting)
        self.running, self._starts = [], 0.0
        self._waiting.clear()
        self.clock = self.free_at = free_at
        return lost

    def advance(self, now: float) -> float:
        """Seconds that its clock moves."""
        seconds = max(0.0, now - self.clock)
        if self.running:
            self._place = min(self._place + seconds / self._pace(), self.running[0][0])
        self.clock += seconds
        return seconds

    def _fill(self) -> None:
        while self._waiting and len(self.running) < self._fleet.room:
            tokens, batch = self._waiting.popleft()
            heapq.heappush(self.running, (self._place + tokens, self._place, batch))
            self._starts += self._place

    def _pace(self) -> float:
        """Seconds a token until the next end, at the context in the middle."""
        batch = len(self.running)
        middle = (self.running[0][0] + self._place) / 2 - self._starts / batch
        return self._fleet.token_s(batch, self._fleet.prompt_tokens + middle)


_Entry = tuple[float, int, _Engine, int]
"""When its next response ends, or how many it has; a number that tells equals apart; its version then."""
