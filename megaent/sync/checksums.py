"""What SGLang's /weights_checker will say of weights that arrived, computed from those that were sent.

A server keeps some tensors stacked in one parameter and pads others with zeros (sglang 0.5.23,
srt/models/qwen2.py, srt/layers/vocab_parallel_embedding.py, srt/configs/update_config.py):

    qkv_proj                   the rows of q_proj, k_proj and v_proj
    gate_up_proj               the rows of gate_proj and up_proj, on a CPU each filled up to a multiple of 32
    down_proj                  on a CPU columns filled up to a multiple of 32
    experts                    stacked over experts (``expert_stacks``), filled up as gate, up and down are
    embed_tokens, lm_head      rows filled up to a multiple of 64

The digest of a parameter is the first 8 bytes of the sha256 of its bytes (srt/managers/mm_utils.py), on a
CPU; a server on a GPU uses another one, which ``card_digest`` computes. Servers of one tensor rank only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from megaent.sync.card_digest import card_digest
from megaent.sync.expert_stacks import ExpertStacks, is_down, is_expert

_STACKS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
_STACK_OF = {part: stack for stack, parts in _STACKS.items() for part in parts}
_VOCAB_MULTIPLE = 64  # rows
_CPU_MULTIPLE = 32  # rows or columns


class Checksums:
    """Digests of the parameters of a server on ``device``, from the tensors that pass through ``watch``."""

    def __init__(self, device: str) -> None:
        self._is_cpu = device == "cpu"
        self._parts: dict[str, list[Tensor]] = {}  # of stacks whose last part has not come
        self._experts = ExpertStacks()
        self.expected: dict[str, str] = {}  # parameter -> 16 hexadecimal digits
        self.sources: dict[str, tuple[str, ...]] = {}  # parameter -> the tensors it is made of

    def watch(self, named_tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in named_tensors:
            self._finish_experts(name)
            if is_expert(name):
                self._experts.take(name, self._padded_expert(name, tensor.detach()))
            else:
                self._add(name, tensor.detach())
            yield name, tensor
        self._finish_experts(None)
        assert not self._parts, f"{sorted(self._parts)} lack a part; parts of a stack are published together"

    def _finish_experts(self, coming: str | None) -> None:
        for parameter, stack in self._experts.completed_by(coming).items():
            self.sources[parameter] = tuple(stack.names)
            self.expected[parameter] = self._digest(stack.parts)

    def _digest(self, parts: Sequence[Tensor]) -> str:
        return sha256_digest(parts) if self._is_cpu else card_digest(parts)

    def _add(self, name: str, tensor: Tensor) -> None:
        module = name.split(".")[-2] if "." in name else name
        stack = _STACK_OF.get(module)
        parameter = name if stack is None else name.replace(f".{module}.", f".{stack}.")
        parts = self._parts.setdefault(parameter, [])
        place = len(parts)
        assert stack is None or _STACKS[stack][place] == module, (
            f"{name} came as part {place} of {parameter}; the order is {_STACKS[stack]}"
        )
        parts.append(self._padded(module, tensor))
        self.sources[parameter] = (*self.sources.get(parameter, ()), name)
        if stack is None or len(parts) == len(_STACKS[stack]):
            self.expected[parameter] = self._digest(parts)
            del self._parts[parameter]

    def _padded_expert(self, name: str, tensor: Tensor) -> Tensor:
        return self._padded("down_proj" if is_down(name) else "gate_proj", tensor)

    def _padded(self, module: str, tensor: Tensor) -> Tensor:
        if module in ("embed_tokens", "lm_head"):
            return F.pad(tensor, (0, 0, 0, -tensor.shape[0] % _VOCAB_MULTIPLE))
        if self._is_cpu and module in _STACKS["gate_up_proj"]:
            rows = -tensor.shape[0] % _CPU_MULTIPLE
            return F.pad(tensor, (0, rows) if tensor.dim() == 1 else (0, 0, 0, rows))
        if self._is_cpu and module == "down_proj" and tensor.dim() == 2:
            return F.pad(tensor, (0, -tensor.shape[1] % _CPU_MULTIPLE))
        return tensor


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def sha256_digest(parts: Sequence[Tensor]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(_bytes_of(part.cpu()).numpy().data)
    return whole.hexdigest()[:16]
