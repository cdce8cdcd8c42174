"""The experts of a layer as SGLang keeps them: two parameters, each a stack over all experts.

sglang 0.5.23, srt/layers/moe/fused_moe_triton/layer.py:

    experts.w13_weight         gate and up projection of expert 0, of expert 1, and so on
    experts.w2_weight          their down projections

Nothing in a tensor's name says how many experts there are: a layer is complete when another tensor comes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from torch import Tensor

_EXPERT = re.compile(r"(?P<layer>.*\.experts)\.(?P<number>\d+)\.(?P<module>\w+)\.weight")
_ROLES = {  # as Qwen3-MoE and as Mixtral name them
    "gate_proj": ("w13_weight", 0),
    "w1": ("w13_weight", 0),
    "up_proj": ("w13_weight", 1),
    "w3": ("w13_weight", 1),
    "down_proj": ("w2_weight", 0),
    "w2": ("w2_weight", 0),
}
_PARTS = {"w13_weight": 2, "w2_weight": 1}  # of one expert


@dataclass
class Stack:
    """A parameter on its way: the tensors it is made of, one after the other, and their names."""

    names: list[str] = field(default_factory=list)
    parts: list[Tensor] = field(default_factory=list)


class ExpertStacks:
    """Holds the experts of one layer at a time."""

    def __init__(self) -> None:
        self._layer: str | None = None
        self._stacks: dict[str, Stack] = {}

    def take(self, name: str, padded: Tensor) -> None:
        """An expert's tensor, filled up as the server does. Of one layer, in the order of the stacks."""
        expert = _match(name)
        suffix, part = _ROLES[expert["module"]]
        stack = self._stacks.setdefault(f"{expert['layer']}.{suffix}", Stack())
        expected = divmod(len(stack.parts), _PARTS[suffix])
        assert expected == (int(expert["number"]), part), (
            f"{name} came as part {expected[1]} of expert {expected[0]} of {suffix}"
        )
        self._layer = expert["layer"]
        stack.names.append(name)
        stack.parts.append(padded)

    def completed_by(self, name: str | None) -> dict[str, Stack]:
        """What is whole when ``name`` comes, or nothing more (None); it is forgotten here."""
        expert = None if name is None else _EXPERT.fullmatch(name)
        if self._layer is None or (expert is not None and expert["layer"] == self._layer):
            return {}
        whole, self._stacks, self._layer = self._stacks, {}, None
        return whole


def is_expert(name: str) -> bool:
    return _EXPERT.fullmatch(name) is not None


def is_down(name: str) -> bool:
    """Whether the columns, not the rows, are an expert's inner size."""
    return _ROLES[_match(name)["module"]][0] == "w2_weight"


def _match(name: str) -> re.Match[str]:
    found = _EXPERT.fullmatch(name)
    assert found is not None, f"{name} is no expert's tensor"
    assert found["module"] in _ROLES, f"{name} has none of the roles {sorted(_ROLES)}"
    return found
