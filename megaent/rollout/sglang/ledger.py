"""Which responses were asked for and which came: each is asked for once and answered once."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(slots=True, kw_only=True)
class Counts:
    """Of one call of ``generate``, or of all of them."""

    asked: int = 0  # responses
    answered: int = 0
    attempts: int = 0  # requests sent for them
    failed: int = 0  # attempts without a usable answer
    continued: int = 0  # attempts that ended early and whose tokens were kept

    def add(self, other: Counts) -> None:
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


class Account:
    """The responses of one call, by the names of their slots. A second answer to one is a defect of ours."""

    def __init__(self, slots: Sequence[str]) -> None:
        self.counts = Counts(asked=len(slots))
        self._open = set(slots)
        assert len(self._open) == len(slots), "two responses have one name"

    def attempt(self, slot: str) -> None:
        self._require_open(slot)
        self.counts.attempts += 1

    def fail(self, slot: str) -> None:
        self._require_open(slot)
        self.counts.failed += 1

    def keep_part(self, slot: str) -> None:
        self._require_open(slot)
        self.counts.continued += 1

    def answer(self, slot: str) -> None:
        self._require_open(slot)
        self._open.remove(slot)
        self.counts.answered += 1

    def _require_open(self, slot: str) -> None:
        assert slot in self._open, f"{slot} is no response of this call, or was answered before"


class Ledger:
    """The accounts of all calls; each that is closed adds a line of JSON to ``path``."""

    def __init__(self, path: Path | None = None) -> None:
        self.total = Counts()
        self._path = path
        self._lock = threading.Lock()

    def close(self, account: Account, *, version: int, groups: Sequence[str]) -> None:
        """The call is over; ``groups`` are the ids of its prompts, ``version`` the weights it began with."""
        line = {"version": version, **asdict(account.counts), "groups": list(groups)}
        with self._lock:
            self.total.add(account.counts)
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
