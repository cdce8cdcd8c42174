"""What a person should be told about a run while it can still be helped, from the lines of its record.

Every rule looks at the mean of ``WINDOW`` steps, a forecast at the trend of more; those that speak of change
compare it with the run's first ``WINDOW`` steps. An alarm is told at the step where its rule begins to hold,
and again only after it did not hold for ``QUIET`` steps, so that a value that moves about its limit is told
once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from megaent.report.forecast import TREND, falls_soon

Record = dict[str, float]

WINDOW, QUIET = 5, 20  # steps
COLLAPSED, EXPLODED, RUNAWAY = 0.2, 3.0, 2.0  # times the value at the start
MISMATCH_K3 = 0.01  # nats a token
NO_SIGNAL, CUT = 0.8, 0.5  # shares of groups, of responses


class Alarm(NamedTuple):
    step: int
    name: str
    cause: str
    advice: str

    def __str__(self) -> str:
        return f"step {self.step}: {self.name}: {self.cause}; try {self.advice}"


class Rule(NamedTuple):
    name: str
    holds: Callable[[Sequence[Record], Sequence[Record]], bool]  # of the first steps and the present ones
    cause: str
    advice: str
    window: int = WINDOW  # steps that it looks at


def alarms(records: Sequence[Record]) -> list[Alarm]:
    """Those of a run, oldest first; ``records`` are lines of ``metrics.jsonl`` in their order."""
    found = [alarm for rule in RULES for alarm in _of_rule(rule, records)]
    return sorted(found, key=lambda alarm: alarm.step)


def _of_rule(rule: Rule, records: Sequence[Record]) -> list[Alarm]:
    found, quiet = [], QUIET
    for end in range(rule.window, len(records) + 1):
        holds = rule.holds(records[:WINDOW], records[end - rule.window : end])
        if holds and quiet >= QUIET:
            step = int(records[end - 1]["step"])
            found.append(Alarm(step, rule.name, rule.cause, rule.advice))
        quiet = 0 if holds else quiet + 1
    return found


def _mean(records: Sequence[Record], *names: str) -> float | None:
    """Of the sum of ``names``; None where a step does not report them."""
    if any(name not in record for record in records for name in names):
        return None
    return sum(record[name] for record in records for name in names) / len(records)


def _above(limit: float, *names: str) -> Callable[[Sequence[Record], Sequence[Record]], bool]:
    def holds(first: Sequence[Record], now: Sequence[Record]) -> bool:
        value = _mean(now, *names)
        return value is not None and value > limit

    return holds


def _changed(name: str, is_beyond: Callable[[float], bool]) -> Callable[..., bool]:
    """Whether the present value, as a multiple of the one at the start, is beyond a limit."""

    def holds(first: Sequence[Record], now: Sequence[Record]) -> bool:
        start, value = _mean(first, name), _mean(now, name)
        return start is not None and value is not None and start > 0 and is_beyond(value / start)

    return holds


def _falls_soon(first: Sequence[Record], now: Sequence[Record]) -> bool:
    start = _mean(first, "entropy/mean")
    values = [record["entropy/mean"] for record in now if "entropy/mean" in record]
    if start is None or len(values) < len(now):
        return False
    return falls_soon(values, COLLAPSED * start)


RULES = (
    Rule(
        "entropy collapse ahead",
        _falls_soon,
        f"at the pace of the last {TREND} steps the entropy soon falls below {COLLAPSED:g} of what it was",
        "what helps against a collapse, now: method=kl_cov, an entropy bonus, or a lower optim.lr",
        window=TREND,
    ),
    Rule(
        "entropy collapse",
        _changed("entropy/mean", lambda times: times < COLLAPSED),
        f"the mean entropy is below {COLLAPSED:g} of what it was; sampling finds little that is new",
        "method=kl_cov or method=clip_higher, an entropy bonus, or a lower optim.lr",
    ),
    Rule(
        "entropy explosion",
        _changed("entropy/mean", lambda times: times > EXPLODED),
        f"the mean entropy is above {EXPLODED:g} times what it was; an entropy term may outweigh the reward",
        "a lower coefficient of the entropy term, or a lower optim.lr",
    ),
    Rule(
        "mismatch over budget",
        _above(MISMATCH_K3, "mismatch/k3"),
        f"trainer and engine are more than {MISMATCH_K3:g} nats a token apart (mismatch/k3)",
        "method=tis, a smaller rollout.staleness, or the engine in the trainer's precision",
    ),
    Rule(
        "groups without signal",
        _above(NO_SIGNAL, "accuracy/solved_none", "accuracy/solved_all"),
        f"more than {NO_SIGNAL:.0%} of the groups are all right or all wrong and teach nothing",
        "prompts of another difficulty, larger groups, or method=dapo, which draws others",
    ),
    Rule(
        "length runaway",
        _changed("length/mean", lambda times: times > RUNAWAY),
        f"responses are more than {RUNAWAY:g} times as long as at the start",
        "method=length_penalty, or a look at the longest responses in responses.md",
    ),
    Rule(
        "responses cut",
        _above(CUT, "length/truncated"),
        f"more than {CUT:.0%} of the responses reach rollout.max_new_tokens and have no answer to grade",
        "a larger rollout.max_new_tokens, or a check that the model ends its turn",
    ),
    Rule(
        "servers failed",
        _above(0, "sync/servers_failed"),
        "a server did not take the weights and is asked nothing",
        "a look at that server's log; it is asked again once it has the weights",
    ),
)
