"""The path that a command's words begin with."""

from __future__ import annotations

import os


def is_option(word: str) -> bool:
    """``key=value``, unless a path of that name is there: directories of a sweep's points hold ``=`` too."""
    return "=" in word and not os.path.exists(word)
