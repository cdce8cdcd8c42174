"""How a model turns queries and keys by their position, as config.json says it and transformers 5 reads it.

``rope_scaling`` is the older name of ``rope_parameters`` and, where both stand, the one that is read. The
base may stand in either, or beside them as ``rope_theta``. Frequencies are computed in megaent.actor.rotary.

    default   one base                                  linear    every frequency divided by ``factor``
    llama3    low frequencies divided, high ones kept    yarn      the same by a ramp; cos and sin are scaled
too     dynamic   default up to max_position_embeddings; beyond it every length has another base, and what was
drawn with               a cache cannot be computed again in one pass, so a run stays within that length
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from megaent.errors import ModelError
from megaent.model_folder.json_file import Fields

KINDS = ("default", "linear", "dynamic", "llama3", "yarn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """Theta and what scales it; fields that a kind does not use keep their defaults."""

    kind: str = "default"  # one of KINDS
    theta: float = 10000.0
    factor: float = 1.0
    original_length: int = 0  # tokens of pretraining; llama3 and yarn
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn: rotations over original_length above which a frequency is kept
    beta_slow: float = 1.0  # yarn: … below which it is divided
    truncate: bool = True  # yarn: the ramp begins and ends at whole dimensions
    attention_factor: float = 1.0  # of cos and sin both; yarn


def read_rotary(config: Fields, *, default_theta: float, max_positions: int) -> Rotary:
    """Raises ModelError for an unknown kind, a field that is missing, or two that contradict each other."""
    scaling, parameters = config.object("rope_scaling"), config.object("rope_parameters")
    rope = scaling or parameters or Fields(config.file, {})
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in KINDS:
        raise ModelError(
            f"{config.file}: the rotary embedding must be one of {', '.join(KINDS)}, got rope_type {kind!r}; "
            "take a model with one of these"
        )
    _refuse_nested(rope)
    _refuse_partial(config, rope)
    outside = config.number("rope_theta", default_theta)
    theta = rope.number("rope_theta", outside)
    if scaling is not None and parameters is not None:
        _refuse_two_bases(config, theta, parameters)
    if kind == "default":
        return Rotary(theta=theta)
    factor = rope.number("factor")
    if kind in ("linear", "dynamic"):
        return Rotary(kind=kind, theta=theta, factor=factor)
    original = _original_length(config, rope, max_positions)
    if kind == "llama3":
        return _llama3(rope, theta, factor, original)
    return Rotary(
        kind="yarn",
        theta=theta,
        factor=factor,
        original_length=original,
        beta_fast=rope.number("beta_fast", 32.0),
        beta_slow=rope.number("beta_slow", 1.0),
        truncate=rope.flag("truncate", True),
        attention_factor=_attention_factor(rope, factor),
    )


def _llama3(rope: Fields, theta: float, factor: float, original: int) -> Rotary:
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if high <= low:
        raise rope.wrong("high_freq_factor", f"above low_freq_factor, {low:g}")
    return Rotary(
        kind="llama3",
        theta=theta,
        factor=factor,
        original_length=original,
        low_freq_factor=low,
        high_freq_factor=high,
    )


def _attention_factor(rope: Fields, factor: float) -> float:
    """YaRN's temperature (arXiv 2309.00071, section 3.4) as transformers computes it: 0.1 ln(factor) + 1."""
    if rope.get("attention_factor") is not None:
        return rope.number("attention_factor")

    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return scale(rope.number("mscale")) / scale(rope.number("mscale_all_dim"))
    return scale(1.0)


def _original_length(config: Fields, rope: Fields, max_positions: int) -> int:
    """Absent from both places it is the context; given in both it must be the same."""
    key = "original_max_position_embeddings"
    inside = rope.whole(key, max_positions)
    beside = config.whole(key, inside)
    if rope.get(key) is not None and inside != beside:
        raise ModelError(
            f"{config.file} gives {key} twice, {inside} in rope_parameters and {beside} beside it; remove "
            "the wrong one"
        )
    return beside


def _refuse_nested(rope: Fields) -> None:
    nested = [key for key, value in rope.values.items() if isinstance(value, dict)]
    if nested:
        raise ModelError(
            f"{rope.file}: rope_parameters by layer type ({', '.join(nested)}) are not supported; take a "
            "model whose layers all turn alike"
        )


def _refuse_partial(config: Fields, rope: Fields) -> None:
    for fields in (config, rope):
        for key in ("partial_rotary_factor", "rotary_pct", "rotary_percent"):
            if fields.get(key) not in (None, 1):
                raise ModelError(
                    f"{config.file}: {key}={fields.get(key)!r} turns a part of each head, which is not "
                    "supported; it must be 1"
                )


def _refuse_two_bases(config: Fields, theta: float, parameters: Fields) -> None:
    """transformers reads rope_scaling alone; a base that stands in rope_parameters would be lost."""
    other = parameters.number("rope_theta", theta)
    if other != theta:
        raise ModelError(
            f"{config.file}: beside rope_scaling, which is read, rope_parameters has another rope_theta "
            f"({other:g}, not {theta:g}); write one rope_parameters with all fields, rope_theta among them, "
            "and remove rope_scaling"
        )
