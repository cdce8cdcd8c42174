"""A checker of the tests: what it does with an answer is what the answer says.

Real answers were seen that made a checker compute for hours, take all memory, end by a signal, or reply with
megabytes. They are not kept; this program does the same on command.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time


def main() -> None:
    _say({"ready": True})
    for line in sys.stdin:
        job = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, job["cpu_s"])
        _obey(job["answer"])
        signal.setitimer(signal.ITIMER_PROF, 0)
        note = "x" * 3_000_000 if "talk" in job["answer"] else ""
        _say({"correct": "fine" in job["answer"], "note": note, "last": False})


def _obey(answer: str) -> None:
    if "spin" in answer:
        while True:
            pass
    if "sleep" in answer:
        time.sleep(3600)
    if "die" in answer:
        os.kill(os.getpid(), signal.SIGKILL)
    if "leave" in answer:
        sys.exit(3)


def _say(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
