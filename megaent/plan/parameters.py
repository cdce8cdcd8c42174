"""How many parameters a rank holds: Megatron-Core's division, exact for what megaent.actor builds."""

from __future__ import annotations

from dataclasses import dataclass

from megaent.plan.layout import Layout
from megaent.plan.shape import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """``held`` parameters of a rank, which ``owners`` ranks hold alike: they add up its gradients, and may
    share out its state. Experts have fewer: expert ranks are taken from tensor, context and data ranks."""

    held: int
    owners: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Counts by who shares them: divided by tensor ranks, by expert ranks, or whole on each."""

    divided: int = 0
    whole: int = 0
    expert: int = 0

    @property
    def total(self) -> int:
        return self.divided + self.whole + self.expert

    def on_rank(self, layout: Layout) -> int:
        return sum(share.held for share in self.shares(layout))

    def shares(self, layout: Layout) -> tuple[Share, ...]:
        """A rank's part of what all ranks hold alike, and of the experts."""
        dense = Share(held=self.divided // layout.tp + self.whole, owners=layout.dp * layout.cp)
        if not self.expert:
            return (dense,)
        owners = layout.dp * layout.cp * layout.tp // layout.ep
        return dense, Share(held=self.expert // layout.ep, owners=owners)

    def __add__(self, other: Parameters) -> Parameters:
        return Parameters(
            divided=self.divided + other.divided,
            whole=self.whole + other.whole,
            expert=self.expert + other.expert,
        )

    def times(self, count: int) -> Parameters:
        return Parameters(divided=self.divided * count, whole=self.whole * count, expert=self.expert * count)


def layer_parameters(shape: Shape) -> Parameters:
    """One layer: projections are divided, norms and biases after a sum are whole."""
    divided, whole = shape.attention_matrices, 2 * shape.hidden
    if shape.qkv_bias or shape.biased:
        divided += shape.query + 2 * shape.key_value
    if shape.qk_norm:
        whole += 2 * shape.head_dim
    if shape.biased:
        divided += shape.ffn
        whole += 4 * shape.hidden  # the norms' biases, and those after the projection and the block
    if shape.experts:
        routed = shape.experts * shape.expert_matrices
        return Parameters(divided=divided, whole=whole + shape.hidden * shape.experts, expert=routed)
    return Parameters(divided=divided + shape.expert_matrices, whole=whole)


def stage_parameters(shape: Shape, layout: Layout, stage: int) -> Parameters:
    """All of pipeline ``stage``; tied weights live on the first and on the last."""
    found = layer_parameters(shape).times(shape.layers // layout.pp)
    matrix = Parameters(divided=shape.padded_vocab * shape.hidden)
    is_first, is_last = stage == 0, stage == layout.pp - 1
    if is_first:
        found = found + matrix + Parameters(whole=shape.positions * shape.hidden)
    if is_last:
        found = found + Parameters(whole=shape.hidden * (2 if shape.biased else 1))
        if not (shape.tied and is_first):
            found = found + matrix
    return found
