"""Throughput of a fleet against its cards, its staleness and its split, each line planned and simulated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from megaent.errors import ConfigError
from megaent.plan.answer import tokens_per_card
from megaent.plan.fleet import Failures, simulate
from megaent.plan.question import read_question
from megaent.plan.search import Search
from megaent.plan.simulated import fleet_of

RESPONSES = 400_000
"""Responses that a simulation draws at most; large fleets are simulated for fewer steps."""

_STEPS = 40
_FEWEST = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetLine:
    """``why_not`` where nothing fits. Seconds are of a step."""

    cards: int
    staleness: int
    engine_cards: int = 0  # 0: engines share the trainer's
    prompts: int = 0
    layout: str = ""
    planned_s: float = 0.0
    simulated_s: float = 0.0
    tokens_per_s_per_card: float = 0.0  # as simulated
    parts: dict[str, float] | None = None  # seconds of what the trainer does or waits for
    busy: float = 0.0
    why_not: str = ""

    @property
    def limit(self) -> str:
        """The longest part, and its share of the step."""
        if not self.parts:
            return ""
        name = max(self.parts, key=lambda name: (self.parts or {})[name])
        return f"{name} {self.parts[name] / self.simulated_s:.0%}"


def fleet_line(words: Sequence[str], cards: int, staleness: int, failures: Failures) -> FleetLine:
    """``words`` are those of ``megaent plan`` but for cards and staleness."""
    search = Search(read_question([*words, f"gpus={cards}", f"staleness={staleness}"]))
    try:
        best = search.run().candidates[0]
    except ConfigError as error:
        return FleetLine(cards=cards, staleness=staleness, why_not=str(error))
    batch, engines = search.batch, best.engines
    assert batch is not None, "a step of reinforcement learning"
    assert engines is not None, "a step of reinforcement learning"
    steps = max(_FEWEST, min(_STEPS, RESPONSES // (batch.prompts * batch.group) - 2 * (staleness + 1)))
    found = simulate(fleet_of(search, best, failures=failures), steps=steps)
    return FleetLine(
        cards=cards,
        staleness=staleness,
        engine_cards=0 if best.colocated else engines.cards,
        prompts=batch.prompts,
        layout=str(best.layout),
        planned_s=best.seconds,
        simulated_s=found.seconds,
        tokens_per_s_per_card=tokens_per_card(search, best) * best.seconds / found.seconds,
        parts=found.parts,
        busy=found.busy,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetQuestion:
    """What is simulated: ``grows`` gives every card the same share of a batch, else the batch stays."""

    words: tuple[str, ...]
    cards: tuple[int, ...]
    staleness: tuple[int, ...]
    grows: bool
    failures: Failures

    def lines(self, say: Callable[[str], None]) -> Iterator[FleetLine]:
        for cards in self.cards:
            words = [*self.words, f"prompts={max(cards, 8)}"] if self.grows else list(self.words)
            for staleness in self.staleness:
                say(f"simulating {cards} cards, staleness {staleness}")
                yield fleet_line(words, cards, staleness, self.failures)


def split_lines(
    words: Sequence[str],
    cards: int,
    staleness: int,
    failures: Failures,
    shares: Sequence[float],
    *,
    node: int,
) -> list[FleetLine]:
    """The same cards, divided otherwise between engines and trainer, in whole nodes of ``node``."""
    counts = sorted({max(node, round(cards * share / node) * node) for share in shares})
    return [
        fleet_line([*words, f"engine_gpus={count}"], cards, staleness, failures)
        for count in counts
        if count < cards
    ]
