"""An engine whose tokens take as long as it is told: requests as JSON lines in, ends of responses out.

Decodes all that it has at one pace, ``base_s`` and ``each_s`` for every response, at most ``room`` together.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from queue import Empty, SimpleQueue
from threading import Thread


def main(base_s: float, each_s: float, room: int) -> None:
    inbox: SimpleQueue[dict | None] = SimpleQueue()
    Thread(target=read, args=(inbox,), daemon=True).start()
    running: dict[str, int] = {}
    waiting: deque[tuple[str, int]] = deque()
    due = time.monotonic()
    while True:
        if not running and not waiting:
            if not taken(inbox.get(), waiting):
                return
            due = time.monotonic()
        while (found := poll(inbox)) is not Ellipsis:
            if not taken(found, waiting):
                return
        while waiting and len(running) < room:
            name, tokens = waiting.popleft()
            running[name] = tokens
        due += base_s + each_s * len(running)  # of the clock, so that a late wake is caught up
        time.sleep(max(0.0, due - time.monotonic()))
        for name in [name for name, left in running.items() if left == 1]:
            print(name, flush=True)
        running = {name: left - 1 for name, left in running.items() if left > 1}


def read(inbox: SimpleQueue[dict | None]) -> None:
    for line in sys.stdin:
        inbox.put(json.loads(line))
    inbox.put(None)


def poll(inbox: SimpleQueue[dict | None]) -> object:
    try:
        return inbox.get_nowait()
    except Empty:
        return ...


def taken(found: object, waiting: deque[tuple[str, int]]) -> bool:
    """Whether there is more to do; None ends it."""
    if not isinstance(found, dict):
        return False
    waiting.extend(found.items())
    return True


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
