"""One forward pass where two are the same: the first minibatch is scored and then learnt from unchanged.

Scoring keeps the autograd graph of the packs that the first optimizer step will learn from, and the step
takes their outputs instead of computing them again. The bits are those of two passes: same packs, same
weights, same kernels. What is kept is bounded in bytes, by an estimate that is the same on every rank of a
replica.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from megaent.actor.microbatch import Microbatch
from megaent.actor.sizes import Sizes
from megaent.model_folder.architecture import Architecture
from megaent.types import Experience


class KeptGraphs:
    """Outputs [3 or 4, n] of scored packs with their graphs; stale, so forgotten, once a weight changes."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens  # of the packs that may be kept at a time; 0 keeps none
        self._room = 0
        self._wanted: set[tuple[int, ...]] = set()
        self._outputs: dict[tuple[int, ...], Tensor] = {}
        self._scored: tuple[Tensor, float] | None = None  # what the outputs are of: tokens and temperature

    def expect(self, batch: Experience, temperature: float, packs: list[list[int]]) -> None:
        """The first optimizer step on ``batch`` will learn from ``packs``."""
        self.forget()
        self._wanted = {tuple(pack) for pack in packs if pack}
        self._scored, self._room = (batch.token, temperature), self.tokens

    def forward(self, microbatch: Microbatch, run: Callable[[], Tensor]) -> Tensor:
        """The output of ``run``, with its graph where that is kept."""
        length = microbatch.input_ids.numel()
        is_kept = microbatch.responses in self._wanted and length <= self._room
        with torch.set_grad_enabled(is_kept):
            output = run()
        if is_kept:
            self._room -= length
            self._outputs[microbatch.responses] = output
        return output

    def take(self, microbatch: Microbatch) -> Tensor | None:
        """The kept output, once; None where the pass has to be made."""
        return self._outputs.pop(microbatch.responses, None)

    def keep_only(self, batch: Experience, temperature: float) -> None:
        """Forget the outputs unless they are of this batch at this temperature."""
        if self._scored is None or self._scored[0] is not batch.token or self._scored[1] != temperature:
            self.forget()

    def forget(self) -> None:
        self._wanted, self._outputs, self._scored, self._room = set(), {}, None, 0


def graph_bytes_per_token(architecture: Architecture, sizes: Sizes, itemsize: int) -> int:
    """Bytes that the local back-end keeps of one token for its backward pass, statistics aside.

    Counted by layer: seven times the hidden state (two norms and the inputs of two projections), five times
    the feed-forward width (both halves, their product, the activation and its input), queries and keys once
    more each, the projection that values are a view of, and what attention returns.
    """
    heads, groups = architecture.num_heads // sizes.tp, architecture.num_kv_heads // sizes.tp
    queries, keys = heads * architecture.head_dim, groups * architecture.head_dim
    feed_forward = architecture.intermediate_size // sizes.tp
    attention = 3 * queries + 3 * keys
    normed = 3 * (queries + keys) if architecture.qk_norm else 0
    layer = 7 * architecture.hidden_size + 5 * feed_forward + attention + normed
    return architecture.num_layers * layer * itemsize
