"""``precision=``: how the matrix products of the layers are computed; the weights stay in ``model.dtype``.

full      every product in model.dtype
fp8       Transformer Engine's FP8 tensor cores (Ada, Hopper and later)
mxfp8     blocks of 32 with a power of two each (Blackwell and later)
nvfp4     four bits, blocks of 16 (Blackwell and later)
auto      fp8 where the card and Transformer Engine have it, otherwise full; which one is said
fp8_sim   FP8's rounding on any device, computed in model.dtype: a simulation, for studying the drift

The head, the statistics, attention itself and the norms are in no case rounded to eight bits.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from megaent.errors import ConfigError
from megaent.options import require


@dataclass
class Precision:
    """``precision=full``, and what all precisions have."""

    name: str = "full"


@dataclass
class Quantised(Precision):
    """What every precision below ``model.dtype`` can be told."""

    full_layers: int = 0  # this many first and as many last layers stay in model.dtype
    probe_every: int = 10  # steps between measurements of the drift from model.dtype; 0 never
    drift_limit: float = 0.0  # nats, of the mean absolute difference of log-probs; 0 only reports

    def __post_init__(self) -> None:
        for field in ("full_layers", "probe_every", "drift_limit"):
            value = getattr(self, field)
            require(value >= 0, f"precision.{field} must be 0 or more, got {value}")
        require(
            not self.drift_limit or self.probe_every > 0,
            "precision.drift_limit has no effect with precision.probe_every=0; set it to 1 or more",
        )

    def rounds(self, layer: int, num_layers: int) -> bool:
        """Whether the products of a layer, counted from 0, are rounded."""
        return self.full_layers <= layer < num_layers - self.full_layers


@dataclass
class Fp8(Quantised):
    name: str = "fp8"
    recipe: str = "tensorwise"  # tensorwise | blockwise | delayed

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_recipe(self.recipe, ("tensorwise", "blockwise", "delayed"))
        require(
            not (self.recipe == "delayed" and self.full_layers),
            "precision.recipe=delayed rounds every layer; set precision.full_layers=0, or another recipe",
        )


@dataclass
class Mxfp8(Quantised):
    name: str = "mxfp8"


@dataclass
class Nvfp4(Quantised):
    name: str = "nvfp4"


@dataclass
class Auto(Quantised):
    name: str = "auto"


@dataclass
class Fp8Simulation(Quantised):
    name: str = "fp8_sim"
    recipe: str = "tensorwise"  # tensorwise | blockwise | mxfp8

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_recipe(self.recipe, ("tensorwise", "blockwise", "mxfp8"))


PRECISIONS: dict[str, type[Precision]] = {
    "full": Precision,
    "fp8": Fp8,
    "mxfp8": Mxfp8,
    "nvfp4": Nvfp4,
    "auto": Auto,
    "fp8_sim": Fp8Simulation,
}


def _require_recipe(given: str, known: tuple[str, ...]) -> None:
    require(given in known, f"precision.recipe must be one of {', '.join(known)}, got {given!r}")


# ---------------------------------------------------------------- what is here


class Machine(NamedTuple):
    """What decides whether a precision is possible."""

    card: str  # its name, "" without one
    capability: tuple[int, int]  # of the card, (9, 0) for Hopper
    has_transformer_engine: bool


def this_machine() -> Machine:
    """The present card, where torch finds one."""
    import torch

    is_there = torch.cuda.is_available()
    return Machine(
        card=torch.cuda.get_device_name() if is_there else "",
        capability=torch.cuda.get_device_capability() if is_there else (0, 0),
        has_transformer_engine=importlib.util.find_spec("transformer_engine") is not None,
    )


_NEEDED = {"fp8": (8, 9), "mxfp8": (10, 0), "nvfp4": (10, 0)}
_BLOCKWISE = (9, 0)


def resolve(asked: Precision, *, dtype: str, implementation: str, machine: Machine) -> Precision:
    """What is computed in: ``asked``, or for ``auto`` what is possible here.

    Raises ConfigError with what is missing for a precision that is not possible; none is replaced in silence
    (megatron-core itself takes ``fp8`` without Transformer Engine and computes in full).
    """
    if isinstance(asked, Auto):
        fp8 = Fp8(full_layers=asked.full_layers, probe_every=asked.probe_every, drift_limit=asked.drift_limit)
        return Precision() if lacking(fp8, dtype, implementation, machine) else fp8
    if missing := lacking(asked, dtype, implementation, machine):
        raise ConfigError(
            f"precision={asked.name} {missing}; precision=auto takes what is possible, precision=fp8_sim "
            "rounds alike on any device"
        )
    return asked


def lacking(asked: Precision, dtype: str, implementation: str, machine: Machine) -> str:
    """What is missing for ``asked`` here, in words; "" where nothing is."""
    if isinstance(asked, Fp8Simulation):
        return "" if implementation == "local" else f"needs model.implementation=local, got {implementation}"
    if not isinstance(asked, (Fp8, Mxfp8, Nvfp4)):
        return ""
    needed = _NEEDED[asked.name]
    if isinstance(asked, Fp8) and asked.recipe == "blockwise":
        needed = _BLOCKWISE
    if not machine.card:
        return "needs a CUDA card, and there is none"
    if machine.capability < needed:
        has, wanted = (".".join(map(str, each)) for each in (machine.capability, needed))
        return f"needs a card of compute capability {wanted}, and {machine.card} has {has}"
    if not machine.has_transformer_engine:
        return "needs Transformer Engine, which is not installed (`pip install 'megaent[gpu]'`)"
    if implementation != "transformer_engine":
        return f"needs model.implementation=transformer_engine, got {implementation}"
    return "" if dtype == "bfloat16" else f"needs model.dtype=bfloat16, got {dtype}"


def megatron_options(precision: Precision) -> Mapping[str, object]:
    """Of TransformerConfig, for what Transformer Engine computes; empty for what it does not."""
    options: dict[str, object]
    match precision:
        case Fp8(recipe=recipe):
            options = {"fp8": "e4m3" if recipe == "blockwise" else "hybrid", "fp8_recipe": recipe}
        case Mxfp8():
            options = {"fp8": "e4m3", "fp8_recipe": "mxfp8"}
        case Nvfp4():
            options = {"fp4": "e2m1", "fp4_recipe": "nvfp4"}
        case _:
            return {}
    if precision.full_layers:
        options["first_last_layers_bf16"] = True
        options["num_layers_at_start_in_bf16"] = precision.full_layers
        options["num_layers_at_end_in_bf16"] = precision.full_layers
    return options


def length_multiple(precision: Precision) -> int:
    """Tokens a rank of which Transformer Engine's quantised products want a multiple."""
    return {"fp8": 16, "mxfp8": 32, "nvfp4": 32}.get(precision.name, 1)
