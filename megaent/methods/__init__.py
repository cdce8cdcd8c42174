"""The registry: every method by its name, a function of keyword options to what its paper adds.

A new method is one file, one line in ``METHODS``, one card in docs/methods and one golden case
(docs/adding_a_method.md).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from megaent.errors import ConfigError
from megaent.methods.adaptive_entropy import adaptive_entropy
from megaent.methods.aepo import aepo
from megaent.methods.archer import archer
from megaent.methods.ceeh import ceeh
from megaent.methods.cispo import cispo
from megaent.methods.clip_cov import clip_cov
from megaent.methods.clip_higher import clip_higher
from megaent.methods.compatibility import refuse_pairs
from megaent.methods.cosine_reward import cosine_reward
from megaent.methods.dapo import dapo
from megaent.methods.dr_grpo import dr_grpo
from megaent.methods.ee import ee
from megaent.methods.egrc import egrc
from megaent.methods.entropy_advantage import entropy_advantage
from megaent.methods.entropy_bonus import entropy_bonus
from megaent.methods.etr import etr
from megaent.methods.forking_tokens import forking_tokens
from megaent.methods.grpo import grpo
from megaent.methods.gspo import gspo
from megaent.methods.kl_cov import kl_cov
from megaent.methods.length_penalty import length_penalty
from megaent.methods.less import less
from megaent.methods.linear_length import linear_length
from megaent.methods.opo import opo
from megaent.methods.qae import qae
from megaent.methods.reinforce_pp import reinforce_pp
from megaent.methods.reinforce_pp_baseline import reinforce_pp_baseline
from megaent.methods.rloo import rloo
from megaent.methods.sent import sent
from megaent.methods.steer import steer
from megaent.methods.tis import tis
from megaent.methods.weighted_reinforce import weighted_reinforce
from megaent.objective.compose import Part, compose
from megaent.objective.method import Schedule

METHODS: dict[str, Callable[..., Part]] = {
    # The five
    "ceeh": ceeh,
    "egrc": egrc,
    "ee": ee,
    "sent": sent,
    "less": less,
    "etr": etr,
    # Where the advantage comes from
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "dapo": dapo,
    "rloo": rloo,
    "reinforce_pp": reinforce_pp,
    "reinforce_pp_baseline": reinforce_pp_baseline,
    "opo": opo,
    "qae": qae,
    # What is done with ratio and advantage
    "gspo": gspo,
    "cispo": cispo,
    "clip_higher": clip_higher,
    # Entropy held, raised or spent where it counts
    "entropy_bonus": entropy_bonus,
    "adaptive_entropy": adaptive_entropy,
    "entropy_advantage": entropy_advantage,
    "kl_cov": kl_cov,
    "clip_cov": clip_cov,
    "forking_tokens": forking_tokens,
    "steer": steer,
    "archer": archer,
    "aepo": aepo,
    # Lengths, samples and engines
    "length_penalty": length_penalty,
    "linear_length": linear_length,
    "cosine_reward": cosine_reward,
    "weighted_reinforce": weighted_reinforce,
    "tis": tis,
}

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
    suggestions = grpo().suggests
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
