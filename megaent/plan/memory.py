"""Bytes of the fullest rank in parts. Parameters are counted exactly; activations follow Korthikanti et al.
(2205.05198), with flash attention and gated blocks."""

from __future__ import annotations

from dataclasses import dataclass, fields

from megaent.plan.constants import Constants
from megaent.plan.layout import Layout
from megaent.plan.machine import GIB
from megaent.plan.parameters import Parameters, Share, layer_parameters, stage_parameters
from megaent.plan.shape import Shape
from megaent.plan.work import Work

TILE_BYTES = 256 * 2**20
"""Of megaent's fused head: the logits of one tile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes. ``allocated`` is what PyTorch calls its peak; ``total`` adds what lies outside and between."""

    weights: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    activations: float = 0.0
    head: float = 0.0
    reference: float = 0.0
    publication: float = 0.0
    workspace: float = 0.0
    context: float = 0.0
    fragmentation: float = 0.0

    @property
    def total(self) -> float:
        return sum(getattr(self, item.name) for item in fields(self))

    @property
    def allocated(self) -> float:
        return self.total - self.context - self.fragmentation

    @property
    def states(self) -> float:
        return self.weights + self.gradients + self.optimizer


def state_bytes(
    parameters: Parameters, layout: Layout, work: Work, *, weight_bytes: int = 2
) -> tuple[float, float, float]:
    """Weights, gradients and optimizer state of a rank that holds its part of ``parameters``.

    fp32 weights are their own masters, and so are FSDP's, which are gathered in bf16 layer by layer.
    """
    parts = [_share_bytes(share, layout, work, weight_bytes) for share in parameters.shares(layout)]
    weights, gradients, optimizer = map(sum, zip(*parts, strict=True))
    return weights, gradients, optimizer


def _share_bytes(share: Share, layout: Layout, work: Work, weight_bytes: int) -> tuple[float, float, float]:
    held, is_full = share.held, layout.sharding == "full"
    each = held / share.owners if is_full else held
    if work.lora:
        return weight_bytes * each, 0.0, 0.0
    if work.states == "bf16":
        return 2 * each, 2 * each, 4 * each
    if is_full:
        return 4 * each, 4 * each, 8 * each
    master = 0 if weight_bytes >= 4 else 4
    owners = share.owners if layout.sharding == "optimizer" else 1
    return weight_bytes * held, 4 * held, (8 + master) * held / owners


def train_memory(
    constants: Constants, shape: Shape, layout: Layout, work: Work, *, weight_bytes: int = 2
) -> Memory:
    """Of the stage that needs most."""
    stages = {0, layout.pp - 1}
    found = [_stage_memory(constants, shape, layout, work, stage, weight_bytes) for stage in stages]
    return max(found, key=lambda memory: memory.total)


def _stage_memory(
    constants: Constants, shape: Shape, layout: Layout, work: Work, stage: int, weight_bytes: int
) -> Memory:
    parameters = stage_parameters(shape, layout, stage)
    weights, gradients, optimizer = state_bytes(parameters, layout, work, weight_bytes=weight_bytes)
    activations = activation_bytes(constants, shape, layout, work, stage)
    is_last = stage == layout.pp - 1
    head = head_bytes(constants, shape, layout, work) if is_last else 0.0
    workspace = constants.workspace_gib * GIB + _gathered(shape, layout, work)
    allocated = weights + gradients + optimizer + activations + head + workspace
    return Memory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        head=head,
        workspace=workspace,
        context=constants.context_gib * GIB,
        fragmentation=constants.fragmentation * allocated,
    )


def _gathered(shape: Shape, layout: Layout, work: Work) -> float:
    """FSDP holds two whole layers in bf16, one layer's gradients, and the ends of the model."""
    if layout.sharding != "full" or layout.dp * layout.cp == 1:
        return 0.0
    layer = layer_parameters(shape).on_rank(layout)
    ends = shape.padded_vocab * shape.hidden / layout.tp * (1 if shape.tied else 2)
    return 2 * 2 * layer + (0 if work.lora else 4 * layer) + 2 * ends


# ---------------------------------------------------------------- activations


def activation_bytes(constants: Constants, shape: Shape, layout: Layout, work: Work, stage: int = 0) -> float:
    """Of all microbatches that ``stage`` has under way at once."""
    tokens = work.tokens / layout.cp
    layers = shape.layers / layout.pp
    whole = tokens * layer_bytes(shape, layout, work)
    if work.stack == "eager":
        whole *= constants.eager_activations
    kept = whole
    if layout.recompute == "full":
        kept = tokens * _divided(2 * shape.hidden, layout)
    elif layout.recompute == "selective":
        kept = (
            whole * constants.sac_activations
            if work.is_fsdp
            else whole - tokens * _scores(shape, layout, work)
        )
    under_way = _under_way(layout, work, stage)
    computed_again = whole if layout.recompute == "full" else 0.0
    embedding = tokens * _divided(2 * shape.hidden, layout) if stage == 0 else 0.0
    return under_way * layers * kept + computed_again + embedding


def layer_bytes(shape: Shape, layout: Layout, work: Work) -> float:
    """Kept for a token and layer when nothing is computed again: both norms' inputs and outputs, q, k, v and
    attention's output, the block's two inner widths, and the scores where they exist."""
    routed = shape.experts_per_token if shape.experts else 1
    inner = 1 if work.fp8 else 2  # bytes of what only a product reads again
    along_hidden = (4 + 2 * inner) * shape.hidden + (
        2 * shape.hidden if shape.biased else 0
    )  # dropout's masks
    if shape.experts:
        along_hidden += 4 * shape.hidden * routed
    heads = 2 * (2 * shape.query + 2 * shape.key_value)
    block = shape.ffn * (2 * (2 if shape.gated else 1) + inner) * routed
    return _divided(along_hidden, layout) + (heads + block) / layout.tp + _scores(shape, layout, work)


def _scores(shape: Shape, layout: Layout, work: Work) -> float:
    """Softmax's input and output and dropout's mask; flash attention keeps one fp32 a head."""
    if work.attention != "unfused":
        return 4 * shape.heads / layout.tp
    return 5 * shape.heads * work.context / layout.tp


def _divided(width: float, layout: Layout) -> float:
    return width / layout.tp if layout.sequence_parallel else width


def _under_way(layout: Layout, work: Work, stage: int) -> float:
    """Microbatches whose activations a stage keeps under 1F1B; interleaving keeps part of one more round."""
    if layout.pp == 1:
        return 1.0
    count = min(work.microbatches, layout.pp - stage)
    more = (layout.pp - 1) / (layout.pp * layout.vpp) if layout.vpp > 1 else 0.0
    return count * (1.0 + more)


def head_bytes(constants: Constants, shape: Shape, layout: Layout, work: Work) -> float:
    """Logits and what is made of them; a tile of them where the head is fused."""
    rows, columns = work.tokens / layout.cp, shape.padded_vocab / layout.tp
    each = constants.head_memory_eager if work.stack == "eager" else constants.head_memory
    states = 4 * rows * shape.hidden  # the head's input and its gradient
    if work.head == "logits":
        return rows * columns * each + states
    if work.head == "chunked":
        return rows * columns * each / 8 + states
    return 2 * TILE_BYTES + states
