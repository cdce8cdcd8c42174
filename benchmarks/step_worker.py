"""``megaent train`` and the CPU seconds of its every step: ``python step_worker.py OUT.json key=value …``.

For beside_trl.py, which runs it with the package of any build on the path.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from megaent.cli import main
from megaent.loop.trainer import Trainer

_step = Trainer.step
_seconds: list[float] = []


def timed(self: Trainer, step: int):
    began = time.process_time()
    report = _step(self, step)
    _seconds.append(time.process_time() - began)
    return report


if __name__ == "__main__":
    Trainer.step = timed  # type: ignore[method-assign]
    code = main(["train", *sys.argv[2:]])
    Path(sys.argv[1]).write_text(json.dumps(_seconds))
    sys.exit(code)
