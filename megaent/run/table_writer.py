"""Writes a run's tables while it trains: rows are kept until there are enough for a part.

A part is written when the oldest row waits for 20 seconds or for a hundredth of the time the process has
been writing, whichever is longer, so that a long run has hundreds of parts and not tens of thousands; and
before each checkpoint, so that a resumed run lacks nothing. Another thread compresses and syncs it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from megaent.report.tables import FOLDER, Columns, rows, thin, write_part

if TYPE_CHECKING:
    import pyarrow as pa

LEAST_WAIT_S = 20.0
WAIT_SHARE = 0.01
MOST_ROWS = 500_000
"""Rows that wait, of one table: with long responses a part comes earlier."""

SHARES = {"tokens": 0.75, "groups": 0.25}
"""Of the limit in bytes; these two grow with the batch and are thinned, the others are small."""


class TableWriter:
    def __init__(self, run: Path, *, most_mb: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = run / FOLDER
        self._most_bytes = most_mb * 1e6
        self._clock = clock
        self._started = clock()
        self._oldest: float | None = None  # when the first row that waits came
        self._waiting: dict[str, list[pa.Table]] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tables")
        self._writing: Future[None] | None = None

    def write(self, tables: Mapping[str, Columns]) -> None:
        """Rows of one step, later than the last. Raises OSError of the part before, too."""
        for name, columns in tables.items():
            table = rows(name, columns)
            if table.num_rows:
                self._waiting.setdefault(name, []).append(table)
        now = self._clock()
        self._oldest = now if self._oldest is None else self._oldest
        wait = max(LEAST_WAIT_S, WAIT_SHARE * (now - self._started))
        if now - self._oldest >= wait or self._most_waiting() >= MOST_ROWS:
            self._begin()

    def flush(self) -> None:
        """Everything is on the disk when this returns. Raises OSError."""
        self._begin()
        self._wait()

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self._thread.shutdown()

    def _most_waiting(self) -> int:
        return max(
            (sum(table.num_rows for table in waiting) for waiting in self._waiting.values()), default=0
        )

    def _begin(self) -> None:
        self._wait()
        if self._waiting:
            self._writing = self._thread.submit(self._write_parts, self._waiting)
        self._waiting, self._oldest = {}, None

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write_parts(self, waiting: Mapping[str, list[pa.Table]]) -> None:
        import pyarrow

        for name, tables in waiting.items():
            write_part(self._folder / name, pyarrow.concat_tables(tables))
            if name in SHARES:
                thin(self._folder / name, SHARES[name] * self._most_bytes)
