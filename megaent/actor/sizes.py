"""How many processes share one copy of the model, and in which way: one value for everybody who asks."""

from __future__ import annotations

import importlib.metadata
import os
from dataclasses import dataclass
from typing import Protocol

from megaent.errors import ConfigError
from megaent.model_folder.experts import Experts


def world_size() -> int:
    """Processes of this run, as torchrun says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class Divisible(Protocol):
    """What a layout divides: an Architecture, or the options of a model yet to be made."""

    @property
    def num_heads(self) -> int: ...

    @property
    def num_kv_heads(self) -> int: ...

    @property
    def intermediate_size(self) -> int: ...

    @property
    def num_layers(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Tensor, pipeline, virtual pipeline and context parallel sizes; data parallelism is what remains."""

    tp: int = 1
    pp: int = 1
    vpp: int | None = None  # virtual stages a rank, 2 or more
    cp: int = 1
    sequence_parallel: bool = False
    ep: int = 1  # ranks that share out the experts of a layer; among them are whole replicas
    etp: int = 1  # ranks that share out the tensors of one expert
    first_layers: int | None = None  # of the first pipeline stage, where it has other than its share
    last_layers: int | None = None  # of the last one

    def __str__(self) -> str:
        virtual = f"x{self.vpp}" if self.vpp else ""
        if self.first_layers or self.last_layers:
            virtual += f"({self.first_layers or ''}..{self.last_layers or ''})"
        sp = "+SP" if self.sequence_parallel else ""
        experts = f" EP{self.ep}" if self.ep > 1 else ""
        expert_tensors = f" ETP{self.etp}" if self.etp > 1 else ""
        return f"TP{self.tp}{sp} PP{self.pp}{virtual} CP{self.cp}{experts}{expert_tensors}"

    @property
    def model_parallel(self) -> int:
        """Processes of one copy of the model."""
        return self.tp * self.pp * self.cp

    def check(self, model: Divisible, world: int) -> None:
        """Refuse, before anything is built, a world or a model that these sizes do not divide."""
        self.check_world(world)
        self.check_model(model)

    def check_world(self, world: int) -> None:
        needed = self.model_parallel
        if world % needed:
            raise ConfigError(
                f"tensor {self.tp} x pipeline {self.pp} x context {self.cp} = {needed} processes a model "
                f"copy, but the world has {world}; start with torchrun --nproc-per-node {needed} (or a "
                "multiple of it)"
            )
        stage = world // self.pp
        if stage % (self.ep * self.etp):
            raise ConfigError(
                f"expert {self.ep} x expert tensor {self.etp} = {self.ep * self.etp} does not divide the "
                f"{stage} processes of a pipeline stage; lower parallel.expert_model_parallel_size or "
                "start more processes"
            )

    def check_model(self, model: Divisible) -> None:
        divided = {"attention heads": model.num_heads, "key/value heads": model.num_kv_heads}
        if not getattr(model, "experts", None):
            divided["intermediate size"] = model.intermediate_size
        for name, size in divided.items():
            if size % self.tp:
                divisors = [d for d in range(1, size + 1) if size % d == 0]
                raise ConfigError(
                    f"parallel.tensor_model_parallel_size={self.tp} does not divide the model's {size} "
                    f"{name}; possible sizes are {divisors[:12]}"
                )
        self._check_experts(model)
        self._check_stages(model.num_layers)

    def layers_of_stages(self, num_layers: int) -> list[int]:
        """[pp] of a model whose layers these sizes divide."""
        ends = (self.first_layers, self.last_layers)
        middle = self.pp - sum(end is not None for end in ends)
        share = (num_layers - sum(filter(None, ends))) // middle if middle else 0
        layers = [share] * self.pp
        layers[0] = share if ends[0] is None else ends[0]
        layers[-1] = layers[-1] if ends[1] is None else ends[1]
        return layers

    def _check_stages(self, num_layers: int) -> None:
        layers = self.layers_of_stages(num_layers)
        if sum(layers) == num_layers and all(count > 0 and count % (self.vpp or 1) == 0 for count in layers):
            return
        if self.first_layers or self.last_layers:
            raise ConfigError(
                f"parallel.num_layers_in_first_pipeline_stage={self.first_layers} and num_layers_in_last_"
                f"pipeline_stage={self.last_layers} of {num_layers} layers leave no equal whole numbers to "
                f"the other of {self.pp} stages"
                + (f", each a multiple of virtual {self.vpp}" if self.vpp else "")
            )
        raise ConfigError(
            f"parallel.pipeline_model_parallel_size={self.pp}"
            + (f" x virtual {self.vpp}" if self.vpp else "")
            + f" = {self.pp * (self.vpp or 1)} stages must divide the model's {num_layers} layers"
        )

    def _check_experts(self, model: Divisible) -> None:
        experts = getattr(model, "experts", None)  # an Architecture's; models that are made have none
        if not isinstance(experts, Experts):
            if self.ep > 1 or self.etp > 1:
                raise ConfigError(
                    f"parallel.expert_model_parallel_size={self.ep} and expert_tensor_parallel_size="
                    f"{self.etp} share out experts, and the model has none; leave them out"
                )
            return
        _require_megatron_of_experts()
        for name, parts, size, what in (
            ("expert_model_parallel_size", self.ep, experts.count, "experts"),
            ("expert_tensor_parallel_size", self.etp, model.intermediate_size, "rows of an expert"),
        ):
            if size % parts:
                raise ConfigError(
                    f"parallel.{name}={parts} does not divide the model's {size} {what}; choose a divisor"
                )
        if self.tp > 1 and not self.sequence_parallel:
            raise ConfigError(
                "a model with experts is trained under tensor parallelism only with sequence parallelism "
                "(Megatron-Core's rule); set parallel.sequence_parallel=true"
            )


def _require_megatron_of_experts() -> None:
    found = importlib.metadata.version("megatron-core")
    if found.startswith("0.16."):
        raise ConfigError(
            f"a model with experts needs megatron-core 0.19, and {found} is installed; use Python 3.12 or "
            "3.13 (./scripts/setup chooses the version by Python's)"
        )
