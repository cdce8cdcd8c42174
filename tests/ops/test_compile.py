"""What torch is told of the ops is true, and torch.compile keeps each public function in one graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from megaent.ops import TokenStatistics, linear_logprob_entropy, logprob_entropy
from megaent.ops.backend import available_backends, get_backend
from megaent.ops.token_statistics import EXTRAS


@pytest.fixture(autouse=True)
def poisoned_empty() -> None:
    """torch.compile cannot look through a torch.empty that has been replaced."""


def op_calls(rng: torch.Generator) -> dict[str, tuple[tuple, dict[str, Tensor]]]:
    ops = torch.ops.megaent
    logits = torch.randn(6, 50, generator=rng).bfloat16()
    other, target = logits.flip(1), torch.randint(50, (6,), generator=rng)
    partial = ops.logits_stats(logits, target, 0, 1.5, True)
    stats = ops.stats_combine([partial], 1.5)
    kl = ops.kl_partial(logits, other, partial, partial, 1.5)
    out = {"out": torch.zeros_like(logits)}
    ones = torch.ones(6)
    segments = tuple(torch.tensor(v) for v in ([1, 2, 1, 2, 3], [0, 2], [2, 5], [0, 1], [True, False]))
    return {
        "logits_stats": ((logits, target, 0, 1.5, True), {}),
        "stats_combine": (([partial, partial], 1.5), {}),
        "logits_stats_backward": ((logits, target, stats, ones, None, other, kl[:2], ones, 0, 1.5), out),
        "kl_partial": ((logits, other, partial, partial, 1.5), {}),
        "top_logits": ((logits,), {}),
        "count_above": ((logits, ones), {}),
        "mass_by_digit": ((logits, ones, torch.zeros_like(target), 24, 1.5), {}),
        "segment_support": (segments, {}),
    }


@pytest.mark.skipif(
    "cpu" not in available_backends(), reason="the C++ ops are not built; run `./scripts/build_ops`"
)
@pytest.mark.parametrize(
    "name",
    [
        "logits_stats",
        "stats_combine",
        "logits_stats_backward",
        "kl_partial",
        "top_logits",
        "count_above",
        "mass_by_digit",
        "segment_support",
    ],
)
def test_schemas_and_shapes_are_what_torch_was_told(rng: torch.Generator, name: str) -> None:
    """Triton's ops are asked the same in the interpreter, in triton_*cases.py."""
    get_backend("cpu")
    arguments, keywords = op_calls(rng)[name]
    torch.library.opcheck(getattr(torch.ops.megaent, name).default, arguments, keywords)


def from_logits(hidden: Tensor, weight: Tensor, target: Tensor, **options: Any) -> TokenStatistics:
    other = (hidden @ weight.flip(0).T).detach()
    return logprob_entropy(hidden @ weight.T, target, reference_logits=other, **options)


def from_hidden(hidden: Tensor, weight: Tensor, target: Tensor, **options: Any) -> TokenStatistics:
    other = {"reference_hidden": hidden.detach(), "reference_weight": weight.detach().flip(0)}
    return linear_logprob_entropy(hidden, weight, target, workspace_bytes=2 * 4 * 50 * 4, **other, **options)


@pytest.mark.full
@pytest.mark.parametrize("op", [from_logits, from_hidden])
def test_one_graph_holds_values_and_gradients(
    rng: torch.Generator, backend: str, op: Callable[..., TokenStatistics]
) -> None:
    hidden, weight = torch.randn(6, 8, generator=rng), torch.randn(50, 8, generator=rng)
    target = torch.randint(50, (6,), generator=rng)
    target[2] = -100

    def loss(h: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        options = {"temperature": 0.7, "ignore_index": -100, "extras": EXTRAS, "backend": backend}
        found = op(h, w, target, nucleus_p=0.8, **options)
        assert found.nucleus_entropy is not None
        assert found.kl is not None
        assert found.top8_mass is not None
        assert found.target_rank is not None
        value = found.log_prob.sum() + found.entropy.square().sum() + found.kl.square().sum()
        value = value + found.nucleus_entropy.square().sum()
        return value, found.top8_mass + found.target_rank

    results = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        value, looked_at = function(*leaves)
        value.backward()
        results.append([value.detach(), looked_at, *(leaf.grad for leaf in leaves)])
    for eager, compiled in zip(*results, strict=True):
        assert torch.equal(eager, compiled)
