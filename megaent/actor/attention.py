"""Norm and attention of Megatron's local layer spec, for packed sequences with torch's own kernels.

Megatron's local spec refuses packed sequences and context parallelism in attention, sequence parallelism in
its norm, and turns queries and keys one sequence at a time. These two modules take their place wherever
Transformer Engine does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from megatron.core.dist_checkpointing.mapping import ShardedStateDict
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor

from megaent.actor.packed_causal import Buckets, Tail, packed_causal
from megaent.actor.rotary import Angles


class RMSNorm(torch.nn.Module):
    """RMS norm whose weight's gradient Megatron sums over tensor ranks under sequence parallelism."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: object) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple = (), metadata: dict | None = None
    ) -> ShardedStateDict:
        state = self.state_dict(prefix="", keep_vars=True)
        return make_sharded_tensors_for_checkpoint(state, prefix, {}, sharded_offsets)


@dataclass
class PackedSequences(PackedSeqParams):
    """Megatron's packed-sequence record plus what attention reads, made once a microbatch for all layers."""

    borders: tuple[int, ...] = ()  # cumulative lengths of the whole sequences, before any context split
    buckets: Buckets | None = None  # without context parallelism
    tails: tuple[Tail, ...] = ()  # responses that stand behind a prompt they share
    angles: Angles | None = None  # by which queries and keys are turned


class PackedAttention(MegatronModule):
    """Causal attention within each packed sequence, over queries and keys that it turns by their positions.

    Sequences of similar length (within a factor of two) are attended together as one padded batch:
    causality keeps the padding, which is on the right, out of every real token. Under context
    parallelism each sequence is split in zig-zag order and keys and values are gathered.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: object,
        attention_type: str,
        softmax_scale: float | None = None,
        pg_collection: ProcessGroupCollection | None = None,
        **_: object,
    ) -> None:
        super().__init__(config=config)
        groups = pg_collection or ProcessGroupCollection.use_mpu_process_groups(required_pgs=["tp", "cp"])
        self.cp_group = groups.cp
        # What YaRN adds to the scale belongs to layers that turn their queries and keys.
        self.is_turned = not (config.no_rope_freq and config.no_rope_freq[layer_number - 1])  # type: ignore[index]
        is_scaled = softmax_scale and self.is_turned
        self.scale = softmax_scale if is_scaled else 1.0 / math.sqrt(config.kv_channels)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        attn_mask_type: object = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: PackedSequences | None = None,
    ) -> Tensor:
        """``query`` [N, heads, d], ``key``, ``value`` [N, groups, d] (an extra batch axis of 1 allowed)."""
        if packed_seq_params is None or attention_bias is not None:
            raise ValueError("PackedAttention takes packed sequences without bias only")
        q_NHD, k_NHD, v_NHD = (x.squeeze(1) if x.dim() == 4 else x for x in (query, key, value))
        if self.is_turned:
            assert packed_seq_params.angles is not None, "the model computes the angles of each microbatch"
            q_NHD, k_NHD = packed_seq_params.angles.turn(q_NHD), packed_seq_params.angles.turn(k_NHD)
        out_NHD = self._attend(q_NHD, k_NHD, v_NHD, packed_seq_params)
        return out_NHD.reshape(query.shape[0], -1)

    def _attend(self, q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, packed: PackedSequences) -> Tensor:
        if packed.buckets is None:
            return self._zigzag(q_NHD, k_NHD, v_NHD, packed.borders)
        if q_NHD.device.type == "cpu":
            return packed_causal(q_NHD, k_NHD, v_NHD, packed.buckets, packed.tails, self.scale)
        return self._buckets(q_NHD, k_NHD, v_NHD, packed.buckets)

    def _sdpa(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, L, heads, d] to the same."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        is_grouped = q.shape[1] != k.shape[1]
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=self.scale, enable_gqa=is_grouped
        )
        return out.transpose(1, 2)

    def _buckets(self, q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, buckets: Buckets) -> Tensor:
        padded = [self._sdpa(q_NHD[rows], k_NHD[rows], v_NHD[rows]) for rows in buckets.rows]
        return torch.cat([out.flatten(0, 1) for out in padded])[buckets.place]

    def _zigzag(self, q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, borders: tuple[int, ...]) -> Tensor:
        size, rank = self.cp_group.size(), self.cp_group.rank()
        gather = gather_from_sequence_parallel_region
        keys = gather(k_NHD, tensor_parallel_output_grad=True, group=self.cp_group)
        values = gather(v_NHD, tensor_parallel_output_grad=True, group=self.cp_group)
        local = q_NHD.shape[0]
        outputs = []
        for start, stop in pairwise(borders):
            mine = slice(start // size, stop // size)
            rows_K = torch.cat([torch.arange(mine.start, mine.stop) + r * local for r in range(size)])
            place_K = torch.cat([_zigzag_places(stop - start, r, size) for r in range(size)])
            mask_QK = place_K[None] <= _zigzag_places(stop - start, rank, size)[:, None]
            rows_K = rows_K.to(q_NHD.device)
            out = self._sdpa(
                q_NHD[mine][None], keys[rows_K][None], values[rows_K][None], mask_QK.to(q_NHD.device)
            )
            outputs.append(out[0])
        return torch.cat(outputs)


def zigzag_ranges(length: int, rank: int, size: int) -> tuple[range, ...]:
    """Places of one sequence that context rank ``rank`` holds: chunks ``rank`` and ``2 size - 1 - rank``."""
    if size == 1:
        return (range(length),)
    chunk = length // (2 * size)
    return tuple(range(number * chunk, (number + 1) * chunk) for number in (rank, 2 * size - 1 - rank))


def _zigzag_places(length: int, rank: int, size: int) -> Tensor:
    return torch.cat([torch.arange(mine.start, mine.stop) for mine in zigzag_ranges(length, rank, size)])
