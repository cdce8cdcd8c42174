"""The registry: every method by its name, a function of keyword options to a Method."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from megaent.errors import ConfigError
from megaent.methods.grpo import grpo
from megaent.objective.compose import Method

METHODS: dict[str, Callable[..., Method]] = {"grpo": grpo}

__all__ = ["METHODS", "build_method", "grpo"]


def build_method(chosen: Mapping[str, Mapping[str, object]]) -> Method:
    """The method of ``{name: options}``. Raises ConfigError for an unknown name or a refused option."""
    if len(chosen) != 1:
        raise ConfigError(
            f"method must name exactly one of {', '.join(METHODS)}, got {list(chosen) or 'none'}"
        )
    ((name, options),) = chosen.items()
    if name not in METHODS:
        raise ConfigError(f"method must be one of {', '.join(METHODS)}, got {name!r}")
    try:
        return METHODS[name](**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"method.{name}: {error}") from error
