"""How a run is asked to stop: the first signal lets the step under way end, a second one leaves at once."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
_ECHO_S = 10.0  # torchrun passes on to its workers what a terminal has sent to them already


class Stopping:
    """SIGINT and SIGTERM for the length of a ``with`` block, in the main thread.

    The first one is remembered in ``asked`` and told; ``limit_s`` seconds later, or at a second one, what a
    signal does outside the block is done: KeyboardInterrupt, or SystemExit with 128 + SIGTERM.
    """

    def __init__(self, *, limit_s: float, speaks: bool) -> None:
        self._limit_s, self._speaks = limit_s, speaks
        self._heard_at = 0.0
        self.asked = 0  # the signal's number, 0 before it came

    def __enter__(self) -> Stopping:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
        self._outside = {number: signal.signal(number, self._hear) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._outside.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGALRM or (self.asked and not self._is_echo()):
            self._leave()
        elif not self.asked:
            self.asked, self._heard_at = number, time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, self._limit_s)
            self._tell(number)

    def _is_echo(self) -> bool:
        return "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() - self._heard_at < _ECHO_S

    def _leave(self) -> None:
        if self.asked == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt

    def _tell(self, number: int) -> None:
        """Straight to the terminal: the program may be in the middle of a line of its own."""
        if self._speaks:
            line = (
                f"\nmegaent: {_WORDS[signal.Signals(number)]}: the step under way ends and is saved, within "
                f"{self._limit_s:g} s; a second signal leaves at once\n"
            )
            os.write(2, line.encode())
