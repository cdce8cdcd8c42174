"""Every number of a plan that no data sheet states: its value, the interval it may lie in, and its source.

``fitted`` means chosen by ``benchmarks/plan_rows.py --fit`` inside its interval on the fitting half of the
published rows, and on nothing else; the interval itself comes from the source that is named beside it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from megaent.errors import ConfigError


def _constant(value: float, low: float, high: float, source: str) -> Any:
    return field(default=value, metadata={"low": low, "high": high, "source": source})


_GEMM = "fitted; large products of cuBLAS on data-sheet clocks reach this share of the dense peak"
_FLASH = "fitted; FlashAttention-2 (2307.08691) and -3 (2407.08608), figures by head size and length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    # Matrix products
    gemm_share_ampere: float = _constant(0.91, 0.75, 0.92, _GEMM)
    gemm_share_hopper: float = _constant(0.782, 0.60, 0.82, _GEMM)
    gemm_share_blackwell: float = _constant(0.414, 0.40, 0.85, _GEMM)
    gemm_fsdp: float = _constant(
        0.918, 0.75, 1.0, "fitted; FSDP's gathers take processors and memory from products"
    )
    fp8_share: float = _constant(0.95, 0.60, 0.95, "fitted; fp8's share of its peak beside bf16's of its own")
    fp8_cast_passes: float = _constant(
        6.97, 0.5, 8.0, "fitted; reads and writes of a product's inputs to scale, cast and transpose them"
    )
    gemm_half: float = _constant(
        16, 16.0, 256.0, "fitted; a side this long halves the rate: tiles of 128 to 256 by 64 to 128"
    )
    expert_share: float = _constant(
        0.67, 0.30, 1.0, "fitted; grouped products beside dense ones: uneven experts, routing, permutation"
    )
    # Attention
    attention_forward_ampere: float = _constant(0.5, 0.5, 0.75, _FLASH)
    attention_forward_hopper: float = _constant(0.55, 0.35, 0.75, _FLASH)
    attention_forward_blackwell: float = _constant(0.56, 0.35, 0.75, _FLASH)
    attention_older: float = _constant(
        0.51, 0.45, 1.0, "fitted; FlashAttention-2, which PyTorch calls, beside -3 and cuDNN from Hopper on"
    )
    attention_backward: float = _constant(
        0.71, 0.65, 1.0, "fitted; backward's rate beside forward's, both papers"
    )
    attention_unfused_passes: float = _constant(
        8.9, 6.0, 24.0, "fitted; reads and writes of the scores where no flash attention is used"
    )
    # Memory traffic
    memory_share: float = _constant(0.85, 0.75, 0.93, "STREAM-like kernels on A100 and H100")
    passes_megatron: float = _constant(
        2.03, 0.8, 2.5, "fitted; traffic beside that of fused norms and activations"
    )
    passes_compiled: float = _constant(0.8, 0.8, 3.0, "fitted; torch.compile")
    passes_eager: float = _constant(3, 1.5, 6.0, "fitted; one kernel an operation")
    head_bytes: float = _constant(20.0, 12.0, 40.0, "bytes moved a logit: bf16 out, fp32 twice, gradient")
    # Links
    link_share: float = _constant(0.75, 0.60, 0.90, "NCCL bus bandwidth over NVLink, large messages")
    network_share: float = _constant(0.80, 0.55, 0.92, "NCCL bus bandwidth over InfiniBand, large messages")
    link_latency_s: float = _constant(12e-6, 5e-6, 30e-6, "one collective inside a node, small messages")
    network_latency_s: float = _constant(30e-6, 15e-6, 80e-6, "one collective between nodes")
    tensor_exposed: float = _constant(1, 0.3, 1.0, "fitted; tensor-parallel exchange that no product hides")
    data_hidden: float = _constant(0.5, 0.5, 1.0, "fitted; of a backward pass's time that hides gradients")
    contention: float = _constant(0.4, 0.0, 0.4, "fitted; of a hidden exchange's time, lost to shared units")
    context_hidden: float = _constant(0.80, 0.4, 1.0, "of attention's time that hides the ring's exchange")
    # A step
    step_overhead_s: float = _constant(0.02, 0.0, 0.2, "Python, data, logging, one synchronisation")
    kernel_latency_s: float = _constant(5e-6, 3e-6, 10e-6, "a launch the processor cannot prepare ahead")
    kernels_a_layer: float = _constant(45.0, 20.0, 90.0, "forward and backward, without CUDA graphs")
    # Memory
    eager_activations: float = _constant(1, 1.0, 1.8, "fitted; upcasts and copies that eager code keeps")
    sac_activations: float = _constant(
        0.526, 0.4, 0.8, "fitted; FSDP's selective kind keeps every other product"
    )
    head_memory: float = _constant(10.0, 6.0, 18.0, "bytes held a logit: bf16, fp32 and a gradient")
    head_memory_eager: float = _constant(14.0, 8.0, 20.0, "the same in eager code")
    workspace_gib: float = _constant(1.0, 0.3, 2.5, "cuBLAS, NCCL and gather buffers, as PyTorch counts")
    context_gib: float = _constant(1.2, 0.6, 2.5, "CUDA context and NCCL channels, outside PyTorch")
    fragmentation: float = _constant(0.04, 0.01, 0.10, "of what is allocated, reserved and unused")
    # Generation
    decode_memory_share: float = _constant(0.65, 0.4, 0.85, "bandwidth a decode step of vLLM or SGLang uses")
    decode_overhead_s: float = _constant(5e-3, 1e-3, 15e-3, "scheduler, sampling and launches a step")
    prefill_share: float = _constant(0.55, 0.35, 0.75, "of the dense peak, chunked prefill")
    engine_memory: float = _constant(0.85, 0.7, 0.92, "of a card that an engine takes when it has it alone")
    length_spread: float = _constant(
        0.8, 0.3, 1.5, "standard deviation over mean of response lengths, where none is given"
    )
    publication_share: float = _constant(0.5, 0.2, 0.8, "of the slower link, gathering and sending buckets")
    file_gbps: float = _constant(
        1.7, 1.0, 3.0, "weights into a file by one process: a pageable copy, 5 GB/s, then the page cache, 2.5"
    )

    def of(self, name: str, generation: str) -> float:
        """The constant ``name`` of one generation of cards."""
        return getattr(self, f"{name}_{generation}")


def replaced(constants: Constants, given: Mapping[str, float]) -> Constants:
    """With measured values in their place. Raises ConfigError for a name that is none, or an odd value."""
    known = [item.name for item in fields(Constants)]
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=2)
            raise ConfigError(
                f"there is no constant {name!r}; "
                + (f"did you mean {' or '.join(near)}?" if near else "megaent/plan/constants.py has them all")
            )
        if not 0 <= value < float("inf"):
            raise ConfigError(f"constants.{name} must be a finite number of 0 or more, got {value}")
    return replace(constants, **given)


EXPECTED = {
    "dense": (0.077, 0.156),
    "experts": (0.259, 0.509),
    "memory": (0.132, 0.265),
    "rl": (0.148, 0.305),
}
"""Median and nine-in-ten error of what was judged and not fitted on: benchmarks/results/plan/errors.json."""
