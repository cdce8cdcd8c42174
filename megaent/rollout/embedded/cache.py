"""Keys and values: a prompt's are held and read once for all its responses.

A response attends to its prompt and to itself. The queries of all responses to one prompt form one matrix
before the prompt's keys, so that these are read once a step however many responses there are (Juravsky et
al. 2024, Hydragen, arXiv 2402.05099), and the two parts of the softmax are joined by their largest scores
and totals (Milakov and Gimelshein 2018, arXiv 1805.02867). All of it is computed in fp32 at least.

P prompts that still have responses, L tokens of the longest, B responses still growing, M of them at most
to one prompt, R tokens that they have, H query heads, G key/value heads, J = H / G, d head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

_ROOM = 64  # tokens that fit before a layer's responses are copied


class Remaining(NamedTuple):
    """What is left of a batch when some leave: those at the end move into the places that fell empty."""

    came_from: list[int]  # where each that stays stood
    holes: Tensor  # the places that fell empty
    movers: Tensor  # and who moves there

    @classmethod
    def of(cls, stays: Sequence[bool], device: torch.device) -> Remaining:
        count = sum(stays)
        empty = [place for place in range(count) if not stays[place]]
        late = [place for place in range(count, len(stays)) if stays[place]]
        came_from = list(range(count))
        for hole, mover in zip(empty, late, strict=True):
            came_from[hole] = mover
        return cls(came_from, *torch.tensor([empty, late], dtype=torch.int64, device=device))

    def close_up(self, x: Tensor) -> Tensor:
        """The remaining rows of ``x``, in its own memory."""
        if len(self.holes):
            x[self.holes] = x[self.movers]
        return x[: len(self.came_from)]


class Prompts:
    """Filled by one pass over P prompts, padded to L on the right: causal attention needs no mask then."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.lengths, self.device = list(lengths), device
        self.layers: list[list[Tensor]] = []  # keys and values [P, G, L, d]

    def attend(self, layer: int, query_NHd: Tensor, key_NGd: Tensor, value_NGd: Tensor) -> Tensor:
        """Of all N = P L tokens, prompt after prompt; layers come in their order."""
        assert layer == len(self.layers)
        count = len(self.lengths)
        query, key, value = (
            x.unflatten(0, (count, -1)).transpose(1, 2) for x in (query_NHd, key_NGd, value_NGd)
        )
        dtype = torch.promote_types(key.dtype, torch.float32)
        self.layers.append([key.to(dtype).contiguous(), value.to(dtype).contiguous()])
        seen = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return seen.transpose(1, 2).flatten(0, 1)

    def keep(self, remaining: Remaining) -> None:
        self.lengths = [self.lengths[place] for place in remaining.came_from]
        self.layers = [[*map(remaining.close_up, layer)] for layer in self.layers]


class Part(NamedTuple):
    """A softmax over some of the keys, not yet divided by its total."""

    weighted: Tensor  # [..., d], sum of exp(score - top) value
    total: Tensor  # [..., 1], sum of exp(score - top)
    top: Tensor  # [..., 1], no smaller than any score

    def divided(self) -> Tensor:
        return self.weighted / self.total


class GroupCache:
    """B responses of equal length R, each at its place among those to its prompt.

    ``prompt_B`` is where each one's prompt stands in ``prompts``.
    """

    def __init__(self, prompts: Prompts, prompt_B: Sequence[int]) -> None:
        self._prompts = prompts
        self._layers: list[list[Tensor]] = []  # keys and values [B, G, room, d]
        self._length = 0  # R
        self._find_places(prompt_B)

    def attend(self, layer: int, query_BHd: Tensor, key_BGd: Tensor, value_BGd: Tensor) -> Tensor:
        """Of one new token a response, whose key and value are kept; layers come in their order."""
        keys_BGRd, values_BGRd = self._append(layer, key_BGd, value_BGd)
        scaled = query_BHd.to(keys_BGRd.dtype) * query_BHd.shape[-1] ** -0.5
        query_BGJd = scaled.unflatten(1, (key_BGd.shape[1], -1))
        prompt = self._see_prompts(layer, query_BGJd)
        scores_BGJR = query_BGJd @ keys_BGRd.mT
        seen_BGJd = _joined(prompt, scores_BGJR, values_BGRd).divided()
        return seen_BGJd.to(query_BHd.dtype).flatten(1, 2)

    def advance(self) -> None:
        """Every layer has its new token."""
        self._length += 1

    def keep(self, remaining: Remaining) -> None:
        """Forget the other responses, and prompts that have none left."""
        self._layers = [[*map(remaining.close_up, layer)] for layer in self._layers]
        prompt_B = [self._prompts_of[place] for place in remaining.came_from]
        needed = set(prompt_B)
        is_used = [place in needed for place in range(len(self._prompts.lengths))]
        if not all(is_used):
            used = Remaining.of(is_used, self._prompts.device)
            self._prompts.keep(used)
            place_of = {old: new for new, old in enumerate(used.came_from)}
            prompt_B = [place_of[old] for old in prompt_B]
        self._find_places(prompt_B)

    def _find_places(self, prompt_B: Sequence[int]) -> None:
        lengths, device = self._prompts.lengths, self._prompts.device
        members = [0] * len(lengths)
        places = []
        for prompt in prompt_B:
            places.append(members[prompt])
            members[prompt] += 1
        self._prompts_of = list(prompt_B)
        self._prompt_B, self._member_B = torch.tensor([prompt_B, places], dtype=torch.int64, device=device)
        self._members, self._longest = max(members, default=0), max(lengths, default=0)
        self._beyond = None
        if min(lengths, default=0) < self._longest:
            position_L = torch.arange(self._longest, device=device)
            self._beyond = position_L >= torch.tensor(lengths, device=device)[:, None, None, None]

    def _append(self, layer: int, *new_BGd: Tensor) -> list[Tensor]:
        """Keys and values [B, G, R, d] with those of the new token."""
        if layer == len(self._layers):
            dtype = self._prompts.layers[layer][0].dtype
            self._layers.append([x[:, :, None].to(dtype) for x in new_BGd])
        end = self._length + 1
        if end > self._layers[layer][0].shape[2]:
            self._layers[layer] = [_with_room(x, end + _ROOM) for x in self._layers[layer]]
        for x, new in zip(self._layers[layer], new_BGd, strict=True):
            x[:, :, self._length] = new
        return [x[:, :, :end] for x in self._layers[layer]]

    def _see_prompts(self, layer: int, query_BGJd: Tensor) -> Part:
        """Of all responses; places without a response have queries of zeros."""
        keys_PGLd, values_PGLd = (x[:, :, : self._longest] for x in self._prompts.layers[layer])
        count, (_, heads, per_head, size) = len(keys_PGLd), query_BGJd.shape
        query = query_BGJd.new_zeros(count, heads, self._members, per_head, size)
        query[self._prompt_B, :, self._member_B] = query_BGJd
        scores = query.flatten(2, 3) @ keys_PGLd.mT
        if self._beyond is not None:
            scores.masked_fill_(self._beyond, -torch.inf)
        top = scores.amax(-1, keepdim=True)
        weight = scores.sub_(top).exp_()
        whole = torch.cat((weight @ values_PGLd, weight.sum(-1, keepdim=True), top), dim=-1)
        mine = whole.unflatten(2, (self._members, per_head))[self._prompt_B, :, self._member_B]
        return Part(*mine.split((size, 1, 1), dim=-1))


def _joined(part: Part, scores: Tensor, values: Tensor) -> Part:
    """``part`` and more keys, of ``scores`` [..., J, R]."""
    top = scores.amax(-1, keepdim=True).maximum(part.top)
    weight, shrink = (scores - top).exp_(), (part.top - top).exp_()
    return Part(
        torch.addcmul(weight @ values, part.weighted, shrink),
        torch.addcmul(weight.sum(-1, keepdim=True), part.total, shrink),
        top,
    )


def _with_room(filled: Tensor, length: int) -> Tensor:
    larger = filled.new_empty(*filled.shape[:2], length, filled.shape[3])
    larger[:, :, : filled.shape[2]] = filled
    return larger
