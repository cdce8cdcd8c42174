"""The registry: every method by its name, a function of keyword options to what its paper adds.

A new method is one file, one line in ``NAMES``, one card in docs/methods and one golden case
(docs/adding_a_method.md). Its module, and torch with it, is imported when the method is asked for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from megaent.errors import ConfigError

if TYPE_CHECKING:
    from megaent.objective.compose import Part
    from megaent.objective.method import Schedule

NAMES = (
    # The five
    "ceeh",
    "egrc",
    "ee",
    "sent",
    "less",
    "etr",
    # Where the advantage comes from
    "grpo",
    "dr_grpo",
    "dapo",
    "rloo",
    "reinforce_pp",
    "reinforce_pp_baseline",
    "opo",
    "qae",
    # What is done with ratio and advantage
    "gspo",
    "cispo",
    "clip_higher",
    # Entropy held, raised or spent where it counts
    "entropy_bonus",
    "adaptive_entropy",
    "entropy_advantage",
    "kl_cov",
    "clip_cov",
    "forking_tokens",
    "steer",
    "archer",
    "aepo",
    "siren",
    "stare",
    "repo",
    # Lengths, samples and engines
    "length_penalty",
    "linear_length",
    "cosine_reward",
    "pear",
    "weighted_reinforce",
    "tis",
)


class _Methods(Mapping[str, "Callable[..., Part]"]):
    """Name -> function, of the module of that name."""

    def __getitem__(self, name: str) -> Callable[..., Part]:
        if name not in NAMES:
            raise KeyError(name)
        return getattr(import_module(f"megaent.methods.{name}"), name)

    def __contains__(self, name: object) -> bool:
        return name in NAMES

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)


METHODS: Mapping[str, Callable[..., Part]] = _Methods()

__all__ = ["METHODS", "build_method"]


def build_method(chosen: Mapping[str, Mapping[str, object]]) -> Schedule:
    """The schedule of ``{name: options}``, in the order given.

    Raises ConfigError for an unknown name, a refused option, methods that cannot be combined, or an
    option that has no effect in this composition.
    """
    if not chosen:
        raise ConfigError(f"method must name one or more of {', '.join(METHODS)}, got none")
    unknown = [name for name in chosen if name not in METHODS]
    if unknown:
        raise ConfigError(f"method must be one or more of {', '.join(METHODS)}, got {unknown[0]!r}")
    schedule = _composed(chosen)
    _refuse_idle_options(chosen, schedule)
    return schedule


def _composed(chosen: Mapping[str, Mapping[str, object]]) -> Schedule:
    from megaent.methods.compatibility import refuse_pairs
    from megaent.objective.compose import compose

    parts = {}
    for name, options in chosen.items():
        try:
            parts[name] = METHODS[name](**options)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"method.{name}: {error}") from error
    refuse_pairs(parts)
    try:
        return compose(parts, base=base())
    except ValueError as error:
        raise ConfigError(f"method=[{','.join(chosen)}]: {error}") from error


def base() -> Part:
    """GRPO's advantage, clipped term and token mean: what nobody sets otherwise."""
    suggestions = METHODS["grpo"]().suggests
    assert suggestions is not None, "GRPO suggests every slot"
    return suggestions


def _refuse_idle_options(chosen: Mapping[str, Mapping[str, object]], schedule: Schedule) -> None:
    """An option away from its default must change the schedule."""
    for name, options in chosen.items():
        for option, parameter in inspect.signature(METHODS[name]).parameters.items():
            if option not in options or options[option] == parameter.default:
                continue
            without = {**chosen, name: {**options, option: parameter.default}}
            try:
                is_idle = _composed(without) == schedule
            except ConfigError:
                continue  # the default does not go with the other options, so this one matters
            if is_idle:
                others = [other for other in chosen if other != name]
                cause = f"beside {', '.join(others)}" if others else "with its other options"
                raise ConfigError(
                    f"method.{name}.{option}={options[option]} has no effect {cause}; leave it out, or drop "
                    "what overrides it"
                )
