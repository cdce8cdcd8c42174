"""From a packed experience to what one forward pass eats.

A microbatch is some responses, each behind its prompt, back to back. The tokens are shifted here and
only here: input place j predicts token j + 1, and only the places that predict a response token are
``rows`` of the loss. Under context parallelism each sequence is padded on the right to a multiple of
2 cp and split in zig-zag order; a last dummy sequence rounds the pack up to what sequence
parallelism needs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from megaent.actor.attention import PackedSequences, length_buckets, zigzag_places
from megaent.errors import ConfigError
from megaent.types import Columns, Experience


@dataclass(frozen=True, slots=True, kw_only=True)
class Microbatch(Columns):
    input_ids: Tensor  # [1, L] this context rank's tokens
    position_ids: Tensor  # [1, L]
    packed: PackedSequences
    row: Tensor  # [n] places in L whose target is a response token
    target: Tensor  # [n]
    place: Tensor  # [n] index into the experience's [T]

    def to(self, device: torch.device) -> Microbatch:
        cu = self.packed.cu_seqlens_q.to(device)
        buckets = self.packed.buckets
        packed = replace(
            self.packed,
            cu_seqlens_q=cu,
            cu_seqlens_kv=cu,
            buckets=None if buckets is None else buckets.to(device),
        )
        return replace(Columns.to(self, device), packed=packed)


def sequence_lengths(batch: Experience) -> list[int]:
    """Input tokens of each response with its prompt: the last token is predicted, never read."""
    prompts = [len(prompt.tokens) for prompt in batch.prompts]
    return [
        prompts[group] + length - 1
        for group, length in zip(batch.group.tolist(), batch.length.tolist(), strict=True)
    ]


def split_microbatches(responses: list[int], lengths: list[int], budget: int) -> list[list[int]]:
    """Responses into packs of at most ``budget`` tokens: longest first, into the first pack with room.

    Raises ConfigError when one sequence alone is over the budget.
    """
    packs: list[list[int]] = []
    room: list[int] = []
    for response in sorted(responses, key=lambda r: (-lengths[r], r)):
        length = lengths[response]
        if length > budget:
            raise ConfigError(
                f"a sequence of {length} tokens exceeds parallel.microbatch_tokens={budget}; "
                f"set parallel.microbatch_tokens to {length} or more, or lower rollout.max_new_tokens"
            )
        for number, free in enumerate(room):
            if length <= free:
                packs[number].append(response)
                room[number] -= length
                break
        else:
            packs.append([response])
            room.append(budget - length)
    return [sorted(pack) for pack in packs]


def pack_multiple(*, cp: int, tp: int) -> int:
    """What a pack's length must divide by; ``tp`` counts under sequence parallelism only."""
    return 2 * cp * tp if cp > 1 else tp


def padded_length(lengths: list[int], pack: list[int], *, cp: int, multiple: int) -> int:
    """Tokens of a built pack before any context split."""
    unit = 2 * cp if cp > 1 else 1
    total = sum(-(-lengths[response] // unit) * unit for response in pack)
    return max(-(-total // multiple), 1) * multiple


def build_microbatch(
    batch: Experience, responses: list[int], *, cp: int, cp_rank: int, multiple: int, at_least: int = 0
) -> Microbatch:
    """Model inputs of these responses for one context rank; ``responses`` may be empty.

    The pack's length divides by ``multiple`` and is ``at_least`` so many tokens.
    """
    starts = torch.cat([batch.length.new_zeros(1), batch.length.cumsum(0)]).tolist()
    builder = _Builder(cp=cp, cp_rank=cp_rank)
    for response in responses:
        span = slice(starts[response], starts[response + 1])
        prompt = torch.tensor(batch.prompts[int(batch.group[response])].tokens, dtype=torch.int64)
        builder.add(prompt, batch.token[span], first_place=span.start)
    builder.round_up(multiple, at_least)
    return builder.build()


class _Builder:
    """Collects sequences of one pack, already cut to this context rank."""

    def __init__(self, *, cp: int, cp_rank: int) -> None:
        self.cp, self.cp_rank = cp, cp_rank
        self.borders = [0]
        self.inputs: list[Tensor] = []
        self.positions: list[Tensor] = []
        self.rows: list[Tensor] = []
        self.targets: list[Tensor] = []
        self.places: list[Tensor] = []
        self.local_length = 0

    def add(self, prompt: Tensor, response: Tensor, *, first_place: int) -> None:
        whole = torch.cat([prompt, response])
        read = whole.numel() - 1
        padded = self._padded(read)
        target = whole.new_full((padded,), -1)
        target[prompt.numel() - 1 : read] = response
        place = torch.arange(padded) - (prompt.numel() - 1) + first_place
        self._append(whole[:-1], padded, target, place)

    def round_up(self, multiple: int, at_least: int) -> None:
        """One dummy sequence, so that the pack divides; a pack is never empty."""
        total = self.borders[-1]
        missing = max(-(-max(total, at_least) // multiple), 1) * multiple - total
        if missing:
            nothing = torch.full((missing,), -1, dtype=torch.int64)
            self._append(torch.zeros(missing, dtype=torch.int64), missing, nothing, nothing)

    def _padded(self, length: int) -> int:
        unit = 2 * self.cp if self.cp > 1 else 1
        return -(-length // unit) * unit

    def _append(self, tokens: Tensor, padded: int, target: Tensor, place: Tensor) -> None:
        tokens = torch.nn.functional.pad(tokens, (0, padded - tokens.numel()))
        mine = zigzag_places(padded, self.cp_rank, self.cp) if self.cp > 1 else torch.arange(padded)
        is_row = target[mine] >= 0
        self.rows.append(is_row.nonzero()[:, 0] + self.local_length)
        self.targets.append(target[mine][is_row])
        self.places.append(place[mine][is_row])
        self.inputs.append(tokens[mine])
        self.positions.append(mine)
        self.borders.append(self.borders[-1] + padded)
        self.local_length += mine.numel()

    def build(self) -> Microbatch:
        cu = torch.tensor(self.borders, dtype=torch.int32)
        longest = int((cu[1:] - cu[:-1]).max())
        return Microbatch(
            input_ids=torch.cat(self.inputs)[None],
            position_ids=torch.cat(self.positions)[None],
            packed=PackedSequences(
                qkv_format="thd",
                cu_seqlens_q=cu,
                cu_seqlens_kv=cu,
                max_seqlen_q=longest,
                max_seqlen_kv=longest,
                borders=tuple(self.borders),
                buckets=length_buckets(tuple(self.borders)) if self.cp == 1 else None,
            ),
            row=torch.cat(self.rows),
            target=torch.cat(self.targets),
            place=torch.cat(self.places),
        )
