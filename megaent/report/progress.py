"""What a person sees while a run goes on: a live table in a terminal, one line a step in a pipe.

Only rank 0 speaks; on every other rank the same calls do nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

_ROWS = 12  # newest steps kept in the live table
_SHOWN = (  # heading, metric, format
    ("reward", "reward/mean", "{:.3f}"),
    ("accuracy", "accuracy/mean", "{:.1%}"),
    ("entropy", "entropy/mean", "{:.3f}"),
    ("length", "length/mean", "{:.1f}"),
)


class Progress:
    """Reports finished steps. Use it as a context manager: it restores the terminal when a run fails.

    ``first_step`` is the number of steps finished before (a resumed run); time left is judged from the
    steps of this process alone.
    """

    def __init__(
        self,
        num_steps: int,
        *,
        first_step: int = 0,
        rank: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._num_steps = num_steps
        self._first_step = first_step
        self._console = console or Console(quiet=rank != 0, highlight=False)
        self._clock = clock
        self._started = clock()
        self._rows: deque[tuple[str, ...]] = deque(maxlen=_ROWS)
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        self._started = self._clock()
        if self._console.is_terminal and not self._console.quiet:
            self._live = Live(console=self._console, refresh_per_second=4, transient=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        """A line that stays, above the table; plain text, no markup."""
        self._console.print(text, markup=False, soft_wrap=True)

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show ``step`` (counted from 1) with what its metrics hold; a metric it lacks shows as a dash."""
        done = step - self._first_step
        seconds = (self._clock() - self._started) / max(done, 1)
        left = format_seconds(seconds * max(self._num_steps - step, 0))
        cells = [_cell(metrics, name, form) for _, name, form in _SHOWN]
        self._rows.append((f"{step}/{self._num_steps}", *cells, f"{seconds:.2f}", left))
        if self._live is not None:
            self._live.update(self._table(step), refresh=True)
        else:
            shown = "  ".join(
                f"{heading} {cell}" for (heading, _, _), cell in zip(_SHOWN, cells, strict=True)
            )
            self.say(f"step {step}/{self._num_steps}  {shown}  {seconds:.2f} s/step  left {left}")

    def _table(self, step: int) -> Group:
        table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
        for heading in ("step", *(heading for heading, _, _ in _SHOWN), "s/step", "left"):
            table.add_column(heading, justify="right")
        for row in self._rows:
            table.add_row(*row)
        return Group(table, ProgressBar(total=self._num_steps, completed=step, width=60))


def format_seconds(seconds: float) -> str:
    """``1h02m``, ``3m07s`` or ``42s``."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    if whole >= 60:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole}s"


def _cell(metrics: Mapping[str, float], name: str, form: str) -> str:
    return form.format(metrics[name]) if name in metrics else "-"
