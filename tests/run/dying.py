"""The ``megaent`` command, killed at a chosen instant: ``python dying.py "EVENT COUNT PATTERN" train …``.

The COUNT-th time that Python is about to do EVENT (one of its audit events: open, os.rename,
shutil.rmtree) to a path that matches PATTERN, the whole process group gets SIGKILL. An open is written
``path -> mode``, a rename ``from -> to``. Nothing of the program is replaced.
"""

from __future__ import annotations

import os
import re
import signal
import sys

from megaent.cli import main


def die_at(event: str, pattern: str, count: int) -> None:
    seen = 0

    def hook(name: str, arguments: tuple) -> None:
        nonlocal seen
        if name == event and re.search(pattern, " -> ".join(map(str, arguments[:2]))):
            seen += 1
            if seen == count:
                os.killpg(0, signal.SIGKILL)

    sys.addaudithook(hook)


if __name__ == "__main__":
    event, count, pattern = sys.argv[1].split(" ", 2)
    die_at(event, pattern, int(count))
    sys.exit(main(sys.argv[2:]))
