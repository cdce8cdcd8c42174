"""What every family's options check of themselves; without torch, so that a mistake costs no time."""

from __future__ import annotations

from typing import Any

from megaent.errors import ConfigError

MISSING: Any = "???"
"""A value that must be given, in OmegaConf's own word for it."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def require_positive(owner: str, **values: float) -> None:
    for name, value in values.items():
        require(value > 0, f"{owner}.{name} must be above 0, got {value}")


def require_fraction(owner: str, **values: float) -> None:
    for name, value in values.items():
        require(0 < value <= 1, f"{owner}.{name} must lie in (0, 1], got {value}")
