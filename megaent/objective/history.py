"""What is remembered of each training prompt from step to step: its accuracy and its shortest success.

The training loop owns one table, the same on every replica: each step it gathers the outcomes of all
groups, commits them, and hands the columns of its prompts to the pieces as ``batch.history``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from megaent.objective.method import History

VERSION = 1
STARTS = ("zero", "first", "prior")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one group of a step did. Plain numbers, so that replicas can send it to each other."""

    prompt_id: str
    num_responses: int
    num_correct: int
    shortest_correct: int | None  # tokens; None without a correct response

    def __post_init__(self) -> None:
        if not 0 <= self.num_correct <= self.num_responses or self.num_responses == 0:
            raise ValueError(
                f"prompt {self.prompt_id!r} has {self.num_correct} correct responses of "
                f"{self.num_responses}; expected one response or more, and no more correct than responses"
            )
        if (self.shortest_correct is None) != (self.num_correct == 0):
            raise ValueError(
                f"prompt {self.prompt_id!r} has {self.num_correct} correct responses and the shortest has "
                f"{self.shortest_correct} tokens; give a length exactly when one is correct"
            )


class _Past(NamedTuple):
    accuracy: float
    visits: int
    shortest: float  # tokens; inf without a correct response so far


class _Change(NamedTuple):
    before: _Past
    accuracy_now: float


class PromptHistory:
    """The running accuracy and shortest correct length of every training prompt (CEEH, eqs. 9, 12, 16).

    ``accuracy <- (1 - eta) accuracy + eta accuracy_now`` with eta = ``rules.up`` where the running value
    lies below this step's, else ``rules.down``. Before the first visit it is 0 (start "zero"), the prior
    ("prior"), or this step's own value ("first": then a prompt not visited counts as 0 in the table's
    mean). Equal commits in any order give equal bits.
    """

    def __init__(self, rules: History, ids: Sequence[str]) -> None:
        """Of all training prompts, so that a mean over the table is known from the first step on."""
        if rules.start not in STARTS:
            raise ValueError(f"history start must be one of {', '.join(STARTS)}, got {rules.start!r}")
        for name, eta in (("up", rules.up), ("down", rules.down)):
            if not 0 <= eta < 1:
                raise ValueError(f"history {name} must lie in [0, 1), got {eta}")
        self._rules = rules
        start = rules.prior if rules.start == "prior" else 0.0
        self._table = {id_: _Past(start, 0, math.inf) for id_ in ids}
        if len(self._table) != len(ids):
            raise ValueError(
                f"{len(ids)} training prompts have {len(self._table)} different ids; ids must differ"
            )
        self._step = 0
        self._changes: dict[str, _Change] = {}  # of the last committed step

    def commit(self, step: int, outcomes: Sequence[Outcome]) -> None:
        """Take in outcomes of ``step``; of several of one prompt in a step, the first counts.

        So a commit may be repeated. Raises ValueError, and takes in nothing, for an unknown prompt or a
        step before the last one.
        """
        unknown = next((item.prompt_id for item in outcomes if item.prompt_id not in self._table), None)
        if unknown is not None:
            raise ValueError(
                f"prompt {unknown!r} is not in the history, which knows the {len(self._table)} training "
                "prompts it was made with; make it with all of them"
            )
        if step < self._step:
            raise ValueError(
                f"outcomes of step {step} came after those of step {self._step}; load the state of step "
                f"{step - 1} first"
            )
        if step > self._step:
            self._step, self._changes = step, {}
        for item in outcomes:
            if item.prompt_id not in self._changes:
                before = self._table[item.prompt_id]
                self._table[item.prompt_id] = self._after(before, item)
                self._changes[item.prompt_id] = _Change(before, item.num_correct / item.num_responses)

    def _after(self, before: _Past, outcome: Outcome) -> _Past:
        now = outcome.num_correct / outcome.num_responses
        is_first = before.visits == 0 and self._rules.start == "first"
        eta = self._rules.up if before.accuracy < now else self._rules.down
        accuracy = now if is_first else (1 - eta) * before.accuracy + eta * now
        length = math.inf if outcome.shortest_correct is None else outcome.shortest_correct
        return _Past(accuracy, before.visits + 1, min(before.shortest, length))

    def columns(self, step: int, ids: Sequence[str]) -> dict[str, Tensor]:
        """Name -> [P] fp64 for prompts whose outcomes of ``step`` were committed; lengths in tokens.

        ``*_before`` and ``*_after`` this step's outcomes, ``accuracy_now`` those outcomes themselves;
        ``mean_*`` over the whole table and ``visited_mean_*`` over its visited prompts, repeated.
        ``shortest_before`` is inf without an earlier correct response.
        """
        missing = next((id_ for id_ in ids if step != self._step or id_ not in self._changes), None)
        if missing is not None:
            raise ValueError(
                f"the history has no outcome of prompt {missing!r} at step {step}; commit the outcomes of "
                "the step before asking for its columns"
            )
        changes = [self._changes[id_] for id_ in ids]
        is_first = self._rules.start == "first"
        before = {**self._table, **{id_: change.before for id_, change in self._changes.items()}}
        rows: dict[str, list[float]] = {
            "accuracy_before": [
                now if is_first and past.visits == 0 else past.accuracy for past, now in changes
            ],
            "accuracy_after": [self._table[id_].accuracy for id_ in ids],
            "accuracy_now": [now for _, now in changes],
            "shortest_before": [past.shortest for past, _ in changes],
            "visits_before": [past.visits for past, _ in changes],
        }
        for name, table in (("before", before), ("after", self._table)):
            visited = [past.accuracy for past in table.values() if past.visits > 0]
            rows[f"mean_{name}"] = [_mean([past.accuracy for past in table.values()])] * len(ids)
            rows[f"visited_mean_{name}"] = [_mean(visited)] * len(ids)
        return {name: torch.tensor(row, dtype=torch.float64) for name, row in rows.items()}

    def state(self) -> dict[str, Any]:
        """Everything a restart needs, as plain JSON."""
        return {
            "version": VERSION,
            "step": self._step,
            "prompts": {id_: _written(past) for id_, past in self._table.items()},
            "changes": {
                id_: [*_written(before), accuracy_now]
                for id_, (before, accuracy_now) in self._changes.items()
            },
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``. Raises ValueError for a foreign version or a table of other prompts."""
        if state.get("version") != VERSION:
            raise ValueError(
                f"the prompts' history has version {state.get('version')!r} and this program reads "
                f"{VERSION}; go on with the program that wrote it, or start a new run"
            )
        prompts, changes = state["prompts"], state["changes"]
        if prompts.keys() != self._table.keys():
            other = sorted(prompts.keys() ^ self._table.keys())[0]
            raise ValueError(
                f"the saved history knows {len(prompts)} prompts and the training data {len(self._table)}; "
                f"{other!r}, for one, is in only one of them. Go on with the same data, or start a new run"
            )
        self._step = int(state["step"])
        self._table = {id_: _read(prompts[id_]) for id_ in self._table}
        self._changes = {id_: _Change(_read(row[:3]), float(row[3])) for id_, row in changes.items()}


def _written(past: _Past) -> list[float | int | None]:
    return [past.accuracy, past.visits, None if math.isinf(past.shortest) else past.shortest]


def _read(row: Sequence[float | None]) -> _Past:
    accuracy, visits, shortest = row
    assert accuracy is not None, "written by state()"
    assert visits is not None, "written by state()"
    return _Past(float(accuracy), int(visits), math.inf if shortest is None else shortest)


def _mean(values: Sequence[float]) -> float:
    """Exactly summed, so that the order of the table does not matter; 0 of nothing.

    Held between smallest and largest: rounding must not put equal values below their own mean.
    """
    if not values:
        return 0.0
    return min(max(math.fsum(values) / len(values), min(values)), max(values))
