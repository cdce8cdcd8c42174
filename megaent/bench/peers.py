"""Other people's kernels, each called as its own documentation says, or named with the command that adds it.

All run on CUDA alone. Those without entropy have less to do. None is a dependency of megaent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from megaent.bench.contender import Compute, Contender


def logits_peers(device: str) -> list[Contender]:
    te, te_package = "transformer-engine", "transformer-engine[pytorch]"
    return [
        _peer("flash-attn", device, _flash_attn, "flash-attn", has_entropy=False),
        _peer(te, device, _transformer_engine, te_package, has_entropy=False, overwrites=True),
        _peer("liger-kernel", device, _liger, "liger-kernel", has_entropy=False, overwrites=True),
        _peer("verl", device, _verl, "verl"),
    ]


def linear_peers(device: str) -> list[Contender]:
    return [
        _peer("cut-cross-entropy", device, _cut_cross_entropy, "cut-cross-entropy", has_entropy=False),
        _peer("liger-kernel", device, _liger_linear, "liger-kernel"),
        _peer("verl", device, _verl_linear, "verl"),
    ]


def _peer(name: str, device: str, load: Callable[[], Compute], package: str, **properties) -> Contender:
    absent = Contender(name, None, num_products=4, **properties)
    if device != "cuda":
        return absent._replace(note="runs on CUDA alone")
    try:
        return absent._replace(compute=load())
    except ImportError as error:
        return absent._replace(note=f"not installed: pip install '{package}' ({error})")


# ---------------------------------------------------------------- from logits


def _flash_attn() -> Compute:
    from flash_attn.ops.triton.cross_entropy import cross_entropy_loss  # type: ignore[import-not-found]

    return lambda logits_NV, target_N: (-cross_entropy_loss(logits_NV, target_N)[0],)


def _transformer_engine() -> Compute:
    from transformer_engine.pytorch.cross_entropy import (  # type: ignore[import-not-found]
        parallel_cross_entropy,
    )

    return lambda logits_NV, target_N: (-parallel_cross_entropy(logits_NV[None], target_N[None])[0],)


def _liger() -> Compute:
    from liger_kernel.transformers.functional import (  # type: ignore[import-not-found]
        liger_cross_entropy,
    )

    return lambda logits_NV, target_N: (-liger_cross_entropy(logits_NV, target_N, reduction="none"),)


def _verl() -> Compute:
    from verl.utils.torch_functional import (  # type: ignore[import-not-found]
        entropy_from_logits,
        logprobs_from_logits,
    )

    def compute(logits_NV: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
        log_prob_N = logprobs_from_logits(logits_NV, target_N, inplace_backward=False)
        return log_prob_N, entropy_from_logits(logits_NV)

    return compute


# ---------------------------------------------------------------- from hidden states


def _cut_cross_entropy() -> Compute:
    from cut_cross_entropy import linear_cross_entropy  # type: ignore[import-not-found]

    # Without its filter, which leaves small gradients out.
    return lambda hidden_ND, weight_VD, target_N: (
        -linear_cross_entropy(hidden_ND, weight_VD, target_N, reduction="none", impl="cce_exact"),
    )


def _liger_linear() -> Compute:
    from liger_kernel.ops import (  # type: ignore[import-not-found]
        fused_linear_scaled_cross_entropy as module,
    )

    try:
        module._load_sm90_function()
    except ImportError:
        # On a Hopper card without the CuTe package its frontend raises; this is what it takes elsewhere.
        fallback = module._FusedLinearPPOFallbackFunction
        return lambda hidden_ND, weight_VD, target_N: _negate_first(
            fallback.apply(hidden_ND, weight_VD, target_N, 1.0, -100, True)
        )
    frontend = module.LigerFusedLinearScaledCrossEntropyFunction
    return lambda hidden_ND, weight_VD, target_N: _negate_first(
        frontend.apply(hidden_ND, weight_VD, target_N, return_entropy=True)
    )


def _negate_first(results: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    return -results[0], results[1]


def _verl_linear() -> Compute:
    from verl.utils.kernel.linear_cross_entropy import (  # type: ignore[import-not-found]
        linear_cross_entropy,
    )

    return lambda hidden_ND, weight_VD, target_N: linear_cross_entropy(
        hidden_ND, weight_VD, target_N, 1.0, "none"
    )
