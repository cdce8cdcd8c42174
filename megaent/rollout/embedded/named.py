"""A transformers model's weights under the names that its files use.

transformers 5 holds the experts of a layer as two stacks, ``experts.gate_up_proj`` [E, 2 I, H] and
``experts.down_proj`` [E, H, I], and calls every mixture ``mlp``; files have a tensor for each projection.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from transformers import PreTrainedModel

from megaent.model_folder.architecture import Architecture
from megaent.model_folder.experts import NAMES, ExpertNames


def file_weights(model: PreTrainedModel, architecture: Architecture) -> Iterator[tuple[str, Tensor]]:
    """Every weight once, as a view into the model's own memory."""
    names = NAMES.get(architecture.family)
    for name, parameter in model.named_parameters():
        layer, is_mixture, rest = name.partition(".mlp.")
        if names is None or not is_mixture:
            yield name, parameter.data
        elif rest == "gate.weight":
            yield f"{layer}.{names.router()}", parameter.data
        else:
            yield from _unstacked(f"{layer}.", rest, parameter.data, names)


def _unstacked(layer: str, stack: str, weights: Tensor, names: ExpertNames) -> Iterator[tuple[str, Tensor]]:
    for expert, whole in enumerate(weights):
        gate, up, down = names.of(expert)
        if stack == "experts.gate_up_proj":
            yield from zip((layer + gate, layer + up), whole.chunk(2), strict=True)
        else:
            assert stack == "experts.down_proj", f"transformers has a new part of a mixture: {layer}{stack}"
            yield layer + down, whole
