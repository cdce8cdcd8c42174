"""The ``megaent`` command with its collectives counted; rank 0 writes them as JSON when it ends.

torchrun --nproc-per-node=2 -m megaent.scale.counted FILE train key=value …
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

from megaent.durable import replace_file
from megaent.scale.collectives import Collectives


def main() -> None:
    file = Path(sys.argv.pop(1))
    seen = Collectives()
    try:
        with seen:
            runpy.run_module("megaent", run_name="__main__", alter_sys=True)
    finally:
        if os.environ.get("RANK", "0") == "0":
            replace_file(file, json.dumps(seen.by_kind()) + "\n")


if __name__ == "__main__":
    main()
