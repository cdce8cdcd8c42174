"""A KV cache with room for the tokens to come: transformers' own is copied whole for every token."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

_ROOM = 64  # tokens that fit before a layer is copied


def roomy_cache() -> Cache:
    return Cache(layer_class_to_replicate=RoomyLayer)


class RoomyLayer(DynamicLayer):
    """``keys`` and ``values`` [B, heads, K, d] are the filled part of larger tensors."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self._all = [states[..., :0, :] for states in (key_states, value_states)]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin = self.get_seq_length()
        end = begin + key_states.shape[-2]
        if end > self._all[0].shape[-2]:
            self._all = [_with_room(whole[..., :begin, :], end + _ROOM) for whole in self._all]
        for whole, states in zip(self._all, (key_states, value_states), strict=True):
            whole[..., begin:end, :] = states
        self.keys, self.values = (whole[..., :end, :] for whole in self._all)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Rows ``indices`` stay, in that order."""
        length = self.get_seq_length()
        self._all = [whole[indices] for whole in self._all]
        self.keys, self.values = (whole[..., :length, :] for whole in self._all)


def _with_room(filled: Tensor, length: int) -> Tensor:
    larger = torch.empty(
        *filled.shape[:-2], length, filled.shape[-1], dtype=filled.dtype, device=filled.device
    )
    larger[..., : filled.shape[-2], :] = filled
    return larger
