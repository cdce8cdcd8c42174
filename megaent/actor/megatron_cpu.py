"""What megatron-core needs where there is no CUDA: each adaptation named, none on a GPU machine.

Megatron names the device "cuda" in literals and asks ``torch.cuda`` for the current one. Every entry
of ``ADAPTATIONS`` mends one kind of site, and says in which versions and, as ``module: text``, where the
site is; a test fails when the text is gone, which is when the entry should go, and when it appears in a
version that is not named. torch itself is changed only in the five calls that a process without CUDA
cannot use for anything else.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import NamedTuple

import torch

from megaent.errors import MissingDependency

VERSIONS = ("0.16", "0.19")  # of megatron-core, read site by site
CPU = torch.device("cpu")
_FACTORIES = ("zeros", "ones", "empty", "tensor", "arange", "full", "empty_like", "zeros_like")


class Adaptation(NamedTuple):
    apply: Callable[[], None]
    needles: tuple[tuple[str, str], ...]  # (module, text that makes the adaptation necessary)
    versions: tuple[str, ...] = VERSIONS  # that have the text


class _NoStream:
    """Stands for CUDA's current stream: on a CPU what was asked for is done when the call returns."""

    def wait_event(self, event: object) -> None: ...

    def wait_stream(self, stream: object) -> None: ...

    def synchronize(self) -> None: ...


class _TorchOnCpu(ModuleType):
    """The name ``torch`` inside one Megatron module: factories that ask for CUDA get the CPU."""

    def __init__(self) -> None:
        super().__init__("torch")

    def __getattr__(self, name: str):
        value = getattr(torch, name)
        if name not in _FACTORIES:
            return value

        @functools.wraps(value)
        def on_cpu(*args, **kwargs):
            device = kwargs.get("device")
            if device is not None and torch.device(device).type == "cuda":
                kwargs["device"] = CPU
            kwargs.pop("pin_memory", None)
            return value(*args, **kwargs)

        return on_cpu


def _redirect(*modules: str) -> None:
    for name in modules:
        importlib.import_module(name).torch = _TorchOnCpu()  # type: ignore[attr-defined]


def current_device() -> None:
    """Layers, buffers, mappings and rotary embeddings allocate on ``torch.cuda.current_device()``."""
    torch.cuda.current_device = lambda: CPU  # type: ignore[assignment,return-value]


def current_stream() -> None:
    """Before gradients are reduced the stream waits for events of CUDA graphs."""
    torch.cuda.current_stream = lambda device=None: _NoStream()  # type: ignore[assignment,return-value]


def synchronize() -> None:
    """Pipeline communication and the checkpoint writer wait for the device."""
    torch.cuda.synchronize = lambda device=None: None


def tensor_cuda() -> None:
    """A few tensors are moved by ``.cuda()``."""
    torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[method-assign,assignment]


def tensor_type() -> None:
    """Optimizers compare ``param.type()`` with the names of CUDA tensor types.

    fp64 takes the name of fp32: to the distributed optimizer that means a weight that is its own master.
    """
    plain = torch.Tensor.type
    names = {f"torch.{kind}Tensor": f"torch.cuda.{kind}Tensor" for kind in ("Float", "Half", "BFloat16")}
    names["torch.DoubleTensor"] = names["torch.FloatTensor"]

    def type_(self, dtype=None, *args, **kwargs):
        result = plain(self, *(() if dtype is None else (dtype,)), *args, **kwargs)
        return names.get(result, result) if isinstance(result, str) else result

    torch.Tensor.type = type_  # type: ignore[method-assign]


def schedules() -> None:
    """The token counter of the pipeline schedules."""
    _redirect("megatron.core.pipeline_parallel.schedules")


def optimizer() -> None:
    """Overflow flags and loss scales of the optimizers."""
    _redirect("megatron.core.optimizer.optimizer", "megatron.core.optimizer.grad_scaler")


def gradient_norm() -> None:
    """The norm is reduced in a CUDA tensor, and clipping insists on CUDA's fp32 type."""
    _redirect("megatron.core.optimizer.clip_grads", "megatron.core.utils")
    clip_grads = importlib.import_module("megatron.core.optimizer.clip_grads")
    clip_grads.clip_grad_by_total_norm_fp32 = _clip_by_total_norm
    importlib.import_module("megatron.core.optimizer.optimizer").clip_grad_by_total_norm_fp32 = (  # type: ignore[attr-defined]
        _clip_by_total_norm
    )


def _clip_by_total_norm(parameters, max_norm, total_norm, use_decoupled_grad=False) -> None:
    """Megatron's rule, ``max_norm / (total_norm + 1e-6)``, for gradients of any floating type."""
    if use_decoupled_grad:
        raise ValueError("decoupled gradients exist only with precision-aware optimizers on a GPU")
    coefficient = max_norm / (total_norm + 1.0e-6)
    if coefficient < 1.0:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.detach().mul_(coefficient)


def shard_gradients() -> None:
    """The distributed optimizer casts a shard's gradient to fp32, whatever its weight has."""
    module = importlib.import_module("megatron.core.optimizer.distrib_optimizer")
    module.DistributedOptimizer._copy_model_grads_to_main_grads = _take_shard_gradients


def _take_shard_gradients(self) -> None:
    """Each shard gets the part of the summed gradient that it steps by, in its own precision."""
    if self.is_stub_optimizer:
        return
    held = (
        (self.model_float16_groups, self.shard_fp32_from_float16_groups),
        (self.model_fp32_groups, self.shard_fp32_groups),
    )
    for weight_groups, shard_groups in held:
        for weights, shards in zip(weight_groups, shard_groups, strict=True):
            for weight, shard in zip(weights, shards, strict=True):
                place = self._get_model_param_range_map(weight)["param"]
                shard.grad = weight.main_grad.view(-1)[place.start : place.end].to(shard.dtype)


def token_dispatcher() -> None:
    """Counts of the tokens that go to each expert are copied to the host on a stream of their own."""
    module = importlib.import_module("megatron.core.transformer.moe.token_dispatcher")
    dispatcher = module.MoEAlltoAllTokenDispatcher
    dispatcher.cuda_dtoh_stream = _NoStream()
    dispatcher._maybe_dtoh_and_synchronize = _take_splits


def _take_splits(self, point: str, tokens_per_expert: torch.Tensor | None = None) -> torch.Tensor | None:
    """At the point where Megatron copies them: the counts are on the host, and are to be plain numbers."""
    if point == self.cuda_dtoh_point:
        for name in ("input_splits", "output_splits"):
            splits = getattr(self, name)
            if torch.is_tensor(splits):
                setattr(self, name, splits.tolist())
    return tokens_per_expert


class _TorchOfRouters(_TorchOnCpu):
    def softmax(self, scores: torch.Tensor, dim: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.softmax(scores, dim, dtype=None if scores.dtype == torch.float64 else dtype)


def router_softmax() -> None:
    """A router's shares are computed in fp32, whatever its scores have; fp64 stays fp64 here."""
    importlib.import_module("megatron.core.transformer.moe.moe_utils").torch = _TorchOfRouters()  # type: ignore[attr-defined]


def checkpointing() -> None:
    """Exchange and saving of distributed checkpoints stage tensors on the device."""
    _redirect(
        "megatron.core.dist_checkpointing.exchange_utils",
        "megatron.core.dist_checkpointing.strategies.state_dict_saver",
    )


def random_states() -> None:
    """Tensor-parallel random streams are driven from the CPU's generator."""
    random = importlib.import_module("megatron.core.tensor_parallel.random")
    random._get_cuda_rng_state = lambda device="cuda", clone=False, graph_safe=False: torch.get_rng_state()
    random._set_cuda_rng_state = lambda state, device=-1, graph_safe=False: torch.set_rng_state(state)
    random.CudaRNGStatesTracker.add = _add_stream
    random.CudaRNGStatesTracker.fork = _fork_stream


def _add_stream(self, name: str, seed: int) -> None:
    if name in self.states_ or seed in self.seeds_:
        raise ValueError(f"random stream {name!r} with seed {seed} exists already")
    self._is_initialized = True
    self.seeds_.add(seed)
    self.states_[name] = torch.Generator().manual_seed(seed).get_state()


@contextlib.contextmanager
def _fork_stream(self, name: str = "model-parallel-rng") -> Iterator[None]:
    outside = torch.get_rng_state()
    torch.set_rng_state(self.states_[name])
    try:
        yield
    finally:
        self.states_[name] = torch.get_rng_state()
        torch.set_rng_state(outside)


_CORE = "megatron.core."
ADAPTATIONS: dict[str, Adaptation] = {
    "current_device": Adaptation(
        current_device,
        (
            (_CORE + "tensor_parallel.layers", "torch.cuda.current_device()"),
            (_CORE + "distributed.param_and_grad_buffer", "torch.cuda.current_device()"),
        ),
    ),
    "current_stream": Adaptation(
        current_stream,
        ((_CORE + "distributed.param_and_grad_buffer", "torch.cuda.current_stream()"),),
        versions=("0.19",),
    ),
    "synchronize": Adaptation(
        synchronize, ((_CORE + "dist_checkpointing.strategies.filesystem_async", "torch.cuda.synchronize()"),)
    ),
    "tensor_cuda": Adaptation(
        tensor_cuda, ((_CORE + "models.common.language_module.language_module", ".cuda()"),)
    ),
    "tensor_type": Adaptation(tensor_type, ((_CORE + "optimizer.optimizer", "'torch.cuda.FloatTensor'"),)),
    "schedules": Adaptation(schedules, ((_CORE + "pipeline_parallel.schedules", 'device="cuda"'),)),
    "optimizer": Adaptation(
        optimizer,
        (
            (_CORE + "optimizer.optimizer", "device='cuda'"),
            (_CORE + "optimizer.grad_scaler", "device='cuda'"),
        ),
    ),
    "gradient_norm": Adaptation(
        gradient_norm,
        (
            (_CORE + "optimizer.clip_grads", "device='cuda'"),
            (_CORE + "optimizer.clip_grads", "== 'torch.cuda.FloatTensor'"),
            (_CORE + "utils", 'device="cuda"'),
        ),
    ),
    "shard_gradients": Adaptation(
        shard_gradients, ((_CORE + "optimizer.distrib_optimizer", "shard_model_grad.float()"),)
    ),
    "token_dispatcher": Adaptation(
        token_dispatcher,
        (
            (_CORE + "transformer.moe.token_dispatcher", "cuda_dtoh_stream = torch.cuda.Stream()"),
            (_CORE + "transformer.moe.token_dispatcher", "self.cuda_dtoh_stream.record_event()"),
        ),
    ),
    "router_softmax": Adaptation(
        router_softmax,
        ((_CORE + "transformer.moe.moe_utils", "torch.softmax(scores, dim=-1, dtype=torch.float32)"),),
    ),
    "checkpointing": Adaptation(
        checkpointing,
        (
            (_CORE + "dist_checkpointing.exchange_utils", "cuda"),
            (_CORE + "dist_checkpointing.strategies.state_dict_saver", "cuda"),
        ),
    ),
    "random_states": Adaptation(
        random_states, ((_CORE + "tensor_parallel.random", "torch.cuda.random.get_rng_state"),)
    ),
}


def version() -> str:
    """Of the installed megatron-core, without its patch number: one of ``VERSIONS``."""
    found = importlib.metadata.version("megatron-core")
    minor = ".".join(found.split(".")[:2])
    if minor not in VERSIONS:
        raise MissingDependency(
            f"megatron-core {found} is installed, and of its versions {' and '.join(VERSIONS)} were read; "
            "./scripts/setup installs the one for this Python"
        )
    return minor


@functools.cache
def adapt() -> tuple[str, ...]:
    """Apply every adaptation of this version once; returns their names. An error where CUDA is present."""
    if torch.cuda.is_available():
        raise RuntimeError("megatron_cpu.adapt() is for processes without CUDA; this one has it")
    needed = [name for name, adaptation in ADAPTATIONS.items() if version() in adaptation.versions]
    for name in needed:
        ADAPTATIONS[name].apply()
    return tuple(needed)
