"""``python -m megaent`` is the ``megaent`` command, which torchrun can start as a module."""

from __future__ import annotations

import sys

from megaent.cli import main

if __name__ == "__main__":
    sys.exit(main())
