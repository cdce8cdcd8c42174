"""Plans beside each other, one for each value of a key: over cards, staleness, lengths or anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megaent.errors import ConfigError
from megaent.plan.answer import tokens_per_card
from megaent.plan.candidates import Candidate
from megaent.plan.machine import GIB
from megaent.plan.question import read_question
from megaent.plan.search import Search


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One value's best plan; ``why_not`` where there is none."""

    value: str
    cards: int = 0
    seconds: float = 0.0
    tokens_per_s_per_gpu: float = 0.0
    card_hours: float = 0.0
    memory_gib: float = 0.0
    layout: str = ""
    limit: str = ""  # the longest part of what a step waits for
    limit_share: float = 0.0
    why_not: str = ""


def series(words: Sequence[str], over: str) -> list[Line]:
    """``over`` is ``key=a,b,c``. Raises ConfigError for words that are wrong whatever the value."""
    key, equals, values = over.partition("=")
    if not equals or not values or any(word.startswith(f"{key}=") for word in words):
        raise ConfigError(f"--over takes a key that is not given otherwise, as in nodes=1,2,4; got {over}")
    return [_line([*words, f"{key}={value}"], value) for value in values.split(",")]


def _line(words: list[str], value: str) -> Line:
    search = Search(read_question(words))
    try:
        best = search.run().candidates[0]
    except ConfigError as error:
        return Line(value=value, cards=search.cards, why_not=str(error))
    name, share = limit(best)
    return Line(
        value=value,
        cards=search.cards,
        seconds=best.seconds,
        tokens_per_s_per_gpu=tokens_per_card(search, best),
        card_hours=search.cards * best.seconds / 3600,
        memory_gib=best.memory.total / GIB,
        layout=_layout(best),
        limit=name,
        limit_share=share,
    )


def _layout(best: Candidate) -> str:
    if best.engines is None:
        return str(best.layout)
    where = "shared" if best.colocated else "apart"
    return f"{best.layout}; {best.engines.count} x {best.engines.tp} {where}"


def limit(best: Candidate) -> tuple[str, float]:
    """The longest part among those that a step waits for, and its share of the step."""
    parts = waited_for(best)
    name = max(parts, key=lambda name: parts[name])
    return name, parts[name] / best.seconds


def waited_for(best: Candidate) -> dict[str, float]:
    """Seconds by part; they add up to the step's. What goes on beside something longer is not among them."""
    step = best.step
    if step is None:
        return {"update": best.seconds}
    full = step.generate.prefill + step.generate.decode
    generation = {"full engines": full, "slowest responses": step.generate.tail}
    if step.staleness >= 2:
        is_full = step.generate.steady >= step.generation
        generation = {"full engines" if is_full else "slowest responses": step.generation}
    trained = {
        "score": step.trained.score,
        "reference": step.trained.reference,
        "update": step.trained.update.total,
    }
    publication = {"publication": step.publication}
    if step.staleness == 0:
        return generation | trained | publication
    return (generation if step.waits_for == "generation" else trained) | publication


def series_text(key: str, lines: Sequence[Line]) -> str:
    """A table; every figure is planned, none measured."""
    names = f"{'cards':>6} {'step, s':>9} {'tokens/s/card':>13} {'card-h':>8} {'GiB':>6}"
    head = f"{key:>16} {names}  {'waits mostly for':22} layout; engines"
    return "\n".join([head, *map(_text, lines), "all of it planned, nothing measured"]) + "\n"


def _text(line: Line) -> str:
    if line.why_not:
        return f"{line.value:>16} {line.cards:>6}  {line.why_not}"
    waits = f"{line.limit} {line.limit_share:.0%}"
    return (
        f"{line.value:>16} {line.cards:>6} {line.seconds:>9.4g} {line.tokens_per_s_per_gpu:>13,.0f} "
        f"{line.card_hours:>8.2f} {line.memory_gib:>6.1f}  {waits:22} {line.layout}"
    )
