"""Seconds of a training step in parts: products, attention, traffic, head, bubble, exchanges, optimizer."""

from __future__ import annotations

from dataclasses import dataclass, fields

from megaent.plan.layout import Layout
from megaent.plan.machine import Machine
from megaent.plan.parameters import Share, stage_parameters
from megaent.plan.shape import Shape
from megaent.plan.work import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSeconds:
    """Of one optimizer step, on the stage that takes longest."""

    matrix: float = 0.0
    attention: float = 0.0
    elementwise: float = 0.0
    head: float = 0.0
    recompute: float = 0.0
    tensor_parallel: float = 0.0
    context_parallel: float = 0.0
    expert_parallel: float = 0.0
    pipeline_bubble: float = 0.0
    pipeline_send: float = 0.0
    data_parallel: float = 0.0
    optimizer: float = 0.0
    overhead: float = 0.0

    @property
    def total(self) -> float:
        return sum(getattr(self, item.name) for item in fields(self))

    def times(self, count: float) -> TrainSeconds:
        return TrainSeconds(**{item.name: count * getattr(self, item.name) for item in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One layer and one microbatch, in one direction."""

    matrix: float
    attention: float
    elementwise: float
    tensor_parallel: float
    context_parallel: float
    expert_parallel: float

    @property
    def total(self) -> float:
        return sum(getattr(self, item.name) for item in fields(self))


class LayerCost:
    """Forward and backward of one layer on one rank."""

    def __init__(self, machine: Machine, shape: Shape, layout: Layout, work: Work) -> None:
        self.machine, self.shape, self.layout, self.work = machine, shape, layout, work
        self.tokens = work.tokens / layout.cp

    def forward(self) -> Pass:
        return self._pass(products=1.0, backward=False)

    def backward(self) -> Pass:
        """A product's two gradients; under LoRA the frozen weights need only one."""
        return self._pass(products=1.0 if self.work.lora else 2.0, backward=True)

    def recomputed(self) -> float:
        """Seconds of what the backward pass computes a second time."""
        forward, kind = self.forward(), self.layout.recompute
        if kind == "full":
            return forward.total
        if kind == "none":
            return 0.0
        if self.work.is_fsdp:
            return 0.5 * forward.matrix + forward.elementwise  # every other product is kept, attention too
        return forward.attention

    def _pass(self, *, products: float, backward: bool) -> Pass:
        attention = self._attention(backward)
        return Pass(
            matrix=products
            * self._products()
            / (self.machine.constants.gemm_fsdp if self.work.is_fsdp else 1.0),
            attention=attention,
            elementwise=self._elementwise() * (2 if backward else 1),
            tensor_parallel=self._tensor_parallel(),
            context_parallel=self._context_parallel(attention, backward),
            expert_parallel=self._expert_parallel(),
        )

    def _products(self) -> float:
        shape, tp, fp8 = self.shape, self.layout.tp, self.work.fp8
        gemm, tokens = self.machine.gemm, self.tokens
        sides = [
            ((shape.query + 2 * shape.key_value) / tp, shape.hidden),
            (shape.hidden, shape.query / tp),
        ]
        block = [(shape.ffn * (2 if shape.gated else 1), shape.hidden), (shape.hidden, shape.ffn)]
        if not shape.experts:
            sides += [(block[0][0] / tp, shape.hidden), (shape.hidden, shape.ffn / tp)]
            return sum(gemm(tokens, n, k, fp8=fp8) for n, k in sides)
        # Balanced: every rank's experts see as many tokens as it sends.
        local = shape.experts / self.layout.ep
        each = tokens * shape.experts_per_token / local
        experts = local * sum(gemm(each, n, k, fp8=fp8) for n, k in block)
        return (
            sum(gemm(tokens, n, k, fp8=fp8) for n, k in sides) + experts / self.machine.constants.expert_share
        )

    def _attention(self, backward: bool) -> float:
        shape = self.shape
        pairs = self.tokens * self.work.context
        operations = 4 * pairs * shape.query / self.layout.tp * (2.5 if backward else 1.0)
        if self.work.attention != "unfused":
            older = self.work.attention == "flash2"
            return self.machine.attention(
                operations / 2, head_dim=shape.head_dim, backward=backward, older=older
            )
        # Two batched products over the whole square, and the scores between them in memory.
        scores = 2 * pairs * shape.heads / self.layout.tp
        passes = self.machine.constants.attention_unfused_passes * (1.5 if backward else 1.0)
        products = 4 * pairs * shape.query / self.layout.tp * (2 if backward else 1)
        half = self.machine.constants.gemm_half
        return products * (1 + half / shape.head_dim) / self.machine.peak() + self.machine.traffic(
            scores * passes
        )

    def _elementwise(self) -> float:
        """Norms, residuals, rotation, activation and, in fp8, casts, as bytes moved."""
        shape, layout, constants = self.shape, self.layout, self.machine.constants
        routed = shape.experts_per_token if shape.experts else 1
        along_hidden = 10 * shape.hidden / (layout.tp if layout.sequence_parallel else 1)
        if shape.experts:
            along_hidden += 6 * shape.hidden * routed  # permuted, and summed again
        along_heads = 2 * (shape.query + shape.key_value) / layout.tp
        along_ffn = (3 if shape.gated else 2) * shape.ffn * routed / layout.tp
        moved = 2 * self.tokens * (along_hidden + along_heads + along_ffn)
        stack = "megatron" if self.work.stack == "megaent" else self.work.stack
        moved *= getattr(constants, f"passes_{stack}")
        if self.work.fp8:
            inputs = 2 * shape.hidden + (shape.query + shape.ffn * routed) / layout.tp
            moved += constants.fp8_cast_passes * self.tokens * inputs
        return self.machine.traffic(moved)

    # ------------------------------------------------------------ exchanges

    def _tensor_parallel(self) -> float:
        """Two gathers and two scatters a direction, or two sums, which move as much."""
        layout = self.layout
        if layout.tp == 1:
            return 0.0
        once = self.machine.all_gather(2 * self.tokens * self.shape.hidden, layout.tp)
        exposed = 1.0 if self.work.stack == "megaent" else self.machine.constants.tensor_exposed
        return 4 * once * exposed

    def _context_parallel(self, attention: float, backward: bool) -> float:
        layout, shape = self.layout, self.shape
        if layout.cp == 1:
            return 0.0
        each = 4 * self.tokens * shape.key_value / layout.tp * (2 if backward else 1)
        ring = (layout.cp - 1) * self.machine.send(each, inner=layout.tp * self._ring_step())
        hidden = self.machine.constants.context_hidden * attention
        return max(0.0, ring - hidden) + self.machine.constants.contention * min(ring, hidden)

    def _ring_step(self) -> int:
        """A ring that leaves the node is as slow as its slowest hop."""
        return self.layout.cp // 2 if self.layout.cp > 1 else 1

    def _expert_parallel(self) -> float:
        if not self.shape.experts or self.layout.ep == 1:
            return 0.0
        sent = 2 * self.tokens * self.shape.experts_per_token * self.shape.hidden
        return 2 * self.machine.all_to_all(sent, self.layout.ep, inner=self.layout.tp)


def forward_seconds(machine: Machine, shape: Shape, layout: Layout, work: Work) -> float:
    """One microbatch of scoring, all stages full: a layer's forward and the head's, whose logits are written
    and read again unless a tile of them is used at once."""
    layer = LayerCost(machine, shape, layout, work)
    rows, columns = layer.tokens, shape.padded_vocab / layout.tp
    head = machine.gemm(rows, columns, shape.hidden)
    if work.head == "logits":
        head += machine.traffic(rows * columns * machine.constants.head_bytes / 2)
    return shape.layers / layout.pp * layer.forward().total + head


def train_seconds(machine: Machine, shape: Shape, layout: Layout, work: Work) -> TrainSeconds:
    """One optimizer step."""
    layer = LayerCost(machine, shape, layout, work)
    forward, backward = layer.forward(), layer.backward()
    layers = shape.layers / layout.pp
    again = layers * layer.recomputed()
    head = head_seconds(machine, shape, layout, work)
    count = work.microbatches
    floor = layers * machine.constants.kernels_a_layer * machine.constants.kernel_latency_s
    of_layers = layers * (forward.total + backward.total) + again
    bubble = (layout.pp - 1) / layout.vpp * (max(of_layers, floor) + head / layout.pp)
    return TrainSeconds(
        matrix=count * layers * (forward.matrix + backward.matrix),
        attention=count * layers * (forward.attention + backward.attention),
        elementwise=count * layers * (forward.elementwise + backward.elementwise),
        head=count * head,
        recompute=count * again,
        tensor_parallel=count * layers * (forward.tensor_parallel + backward.tensor_parallel),
        context_parallel=count * layers * (forward.context_parallel + backward.context_parallel),
        expert_parallel=count * layers * (forward.expert_parallel + backward.expert_parallel),
        pipeline_bubble=bubble,
        pipeline_send=_pipeline_send(machine, shape, layout, work),
        data_parallel=_data_parallel(machine, shape, layout, work, of_layers + head),
        optimizer=_optimizer(machine, shape, layout, work),
        overhead=machine.constants.step_overhead_s + count * max(0.0, floor - of_layers),
    )


def head_seconds(machine: Machine, shape: Shape, layout: Layout, work: Work) -> float:
    """Logits, their statistics and both gradients of one microbatch, on the last stage."""
    rows, columns = work.tokens / layout.cp, shape.padded_vocab / layout.tp
    product = machine.gemm(rows, columns, shape.hidden)
    if work.head == "logits":
        eager = 1.5 if work.stack == "eager" else 1.0
        kept = machine.traffic(rows * columns * machine.constants.head_bytes * eager)
        return (2 if work.lora else 3) * product + kept
    moved = machine.traffic(rows * columns * machine.constants.head_bytes / 2)
    return (4 if work.head == "fused" else 3) * product + moved


def _pipeline_send(machine: Machine, shape: Shape, layout: Layout, work: Work) -> float:
    """Hidden states to the next stage and gradients back, every virtual stage; half is hidden."""
    if layout.pp == 1:
        return 0.0
    split = layout.cp * (layout.tp if layout.sequence_parallel else 1)
    each = 2 * work.tokens * shape.hidden / split
    once = machine.send(each, inner=layout.tp * layout.cp * layout.dp)
    return work.microbatches * layout.vpp * 2 * once * 0.5


def _data_parallel(machine: Machine, shape: Shape, layout: Layout, work: Work, compute: float) -> float:
    """Gradients summed and weights gathered; what a backward pass hides is left out."""
    if layout.dp * layout.cp == 1 or work.lora:
        return 0.0
    stages = (stage_parameters(shape, layout, stage) for stage in (0, layout.pp - 1))
    fullest = max(stages, key=lambda parameters: parameters.on_rank(layout))
    each = sum(_exchanged(machine, layout, work, share) for share in fullest.shares(layout))
    if layout.sharding == "full":
        return work.microbatches * _exposed(machine, each, compute)
    if layout.sharding == "replicated" or work.stack == "megaent":
        return each
    return _exposed(machine, each, compute)


def _exchanged(machine: Machine, layout: Layout, work: Work, share: Share) -> float:
    """Of an optimizer step; of a microbatch where everything is sharded, and weights are gathered twice."""

    def moved(num_bytes: float) -> float:
        inner = layout.cards // layout.pp // share.owners
        return machine.all_gather(num_bytes * share.held, share.owners, inner=inner)

    grads = 2 if work.precision == "bf16-pure" else 4
    if layout.sharding == "full":
        return 2 * moved(2) + moved(grads)
    if layout.sharding == "replicated":
        return 2 * moved(grads)
    return moved(grads) + moved(2)


def _exposed(machine: Machine, exchange: float, compute: float) -> float:
    hidden = min(exchange, machine.constants.data_hidden * compute)
    return exchange - hidden + machine.constants.contention * hidden


def _optimizer(machine: Machine, shape: Shape, layout: Layout, work: Work) -> float:
    """Adam reads gradient, weight and moments, and writes three of them and the bf16 copy."""
    if work.lora:
        return 0.0
    shares = stage_parameters(shape, layout, layout.pp - 1).shares(layout)
    updated = sum(share.held / (1 if layout.sharding == "replicated" else share.owners) for share in shares)
    return machine.traffic(updated * (30 if work.states == "fp32" else 14))
