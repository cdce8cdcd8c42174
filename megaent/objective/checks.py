"""How an option is refused: by its name, with what is allowed and what came."""

from __future__ import annotations

from collections.abc import Collection

SCOPES = ("mini", "micro")  # of a token rule; see method.TokenRule


def require(is_allowed: bool, option: str, allowed: str, got: object) -> None:
    """Raises ValueError ``<option> must <allowed>, got <got>`` unless ``is_allowed``."""
    if not is_allowed:
        raise ValueError(f"{option} must {allowed}, got {got!r}")


def require_one_of(option: str, allowed: Collection[str], got: str) -> None:
    """Raises ValueError unless ``got`` is one of the names."""
    require(got in allowed, option, f"be one of {', '.join(allowed)}", got)
