"""The child program of ``checker_pool``: compares one answer a line with its key, under hard limits.

It is run by path and imports nothing of megaent. A line is ``{"key", "answer", "cpu_s"}``, the reply is
``{"correct", "note", "last"}``, where ``last`` says that this process ends now. With the argument
``defaults`` "answer" is a whole response, in which math-verify finds the answer itself.

Answers are read by math-verify's LaTeX grammar and never evaluated as Python: its other parser, for plain
expressions, ends in sympy's ``parse_expr``, which evaluates, and is not used. The limits are the
kernel's, so they hold inside a long computation in C, and also when the parent has died.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from sympy import Basic, MatrixBase


def main(memory_mib: int, *, by_defaults: bool) -> None:
    # The group's Ctrl-C is for the parent, which closes our input when it ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Libraries may print; only replies may reach the parent.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        import math_verify  # noqa: F401
    except ImportError as error:
        _send(replies, {"failed": str(error)})
        return
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    _send(replies, {"ready": True})
    for line in sys.stdin:
        job = json.loads(line)
        # SIGPROF keeps its default action: the kernel ends this process, whatever it is doing.
        signal.setitimer(signal.ITIMER_PROF, job["cpu_s"])
        try:
            reply = (_compare_by_defaults if by_defaults else _compare)(job["key"], job["answer"])
        except MemoryError:
            # What is left of the heap is not worth trusting; the parent starts a fresh process.
            _send(replies, {"correct": False, "note": "out of memory", "last": True})
            return
        signal.setitimer(signal.ITIMER_PROF, 0)
        _send(replies, reply)


def _compare(key: str, answer: str) -> dict[str, object]:
    import math_verify

    theirs = _parse(answer)
    if not theirs:
        return {"correct": False, "note": "answer not understood", "last": False}
    # Its own time limits are alarms of this process's main thread, which our timer makes needless.
    correct = math_verify.verify(_parse(key), theirs, timeout_seconds=None)
    return {"correct": bool(correct), "note": "", "last": False}


def _compare_by_defaults(key: str, response: str) -> dict[str, object]:
    """What math-verify says when it finds the answer in the whole response itself, to be compared with.

    It then also reads bare numbers and their arithmetic with sympy's parser, under the same limits.
    """
    import math_verify

    answer = math_verify.parse(response, parsing_timeout=0)
    correct = math_verify.verify(
        math_verify.parse(f"${key}$", parsing_timeout=0), answer, timeout_seconds=None
    )
    return {"correct": bool(correct), "note": "" if answer else "answer not understood", "last": False}


@lru_cache(maxsize=256)
def _parse(text: str) -> list[Basic | MatrixBase | str]:
    from math_verify import LatexExtractionConfig, parse

    latex = text.replace("\\%", "").replace("%", "").replace("\u2212", "-")
    only_latex = [LatexExtractionConfig(boxed_match_priority=0)]
    return parse(f"\\boxed{{{latex}}}", extraction_config=only_latex, parsing_timeout=0)


def _send(replies: TextIO, message: dict[str, object]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), by_defaults="defaults" in sys.argv[2:])
