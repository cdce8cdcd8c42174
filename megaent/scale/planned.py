"""What a plan says of a measured point."""

from __future__ import annotations

from dataclasses import dataclass

from megaent.plan.layout import Layout
from megaent.plan.machine import GIB, whole
from megaent.plan.memory import state_bytes
from megaent.plan.parameters import stage_parameters
from megaent.plan.shape import Shape
from megaent.plan.training import forward_seconds, train_seconds
from megaent.plan.work import Work
from megaent.scale.here import Here
from megaent.scale.point import Measured
from megaent.scale.series import Point

_FP32 = "bf16-pure"  # of two-byte elements that count twice: weights, gradients and moments of four
VERBS = ("score", "update")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    seconds: dict[str, float]  # of score and update
    states_gib: float  # weights, gradients and optimizer state of the fullest rank, exact


def planned(here: Here, point: Point, measured: Measured, overhead: dict[str, float]) -> Planned:
    """``overhead`` are the seconds of a verb for each layer and microbatch that no product or byte explains;
    ``measured`` gives the tokens that were there to train on."""
    work = _work(point, measured)
    layers = _layers_passed(point, work)
    plain = _seconds(here, point, work)
    return Planned(
        seconds={verb: plain[verb] + overhead[verb] * layers for verb in VERBS},
        states_gib=_states(point) / GIB,
    )


def overhead_of(here: Here, point: Point, measured: Measured) -> dict[str, float]:
    """Such that the plan of this point is what was measured; the other points then show what follows."""
    work = _work(point, measured)
    plain, layers = _seconds(here, point, work), _layers_passed(point, work)
    return {verb: max(0.0, measured.seconds[verb] - plain[verb]) / layers for verb in VERBS}


def _seconds(here: Here, point: Point, work: Work) -> dict[str, float]:
    """Processes beyond the cores take turns."""
    shape, layout = _shape(point), _layout(point)
    crowd = max(1.0, point.ranks / here.cluster.cards_per_node)
    passes = work.microbatches + layout.pp - 1
    return {
        "score": crowd * passes * forward_seconds(here, shape, layout, work),
        "update": crowd * train_seconds(here, shape, layout, work).total,
    }


def _layers_passed(point: Point, work: Work) -> float:
    """By a rank, in one pass over its microbatches; a pipeline's stages wait for each other."""
    return point.sizes.layers / point.pp * (work.microbatches + point.pp - 1)


def _work(point: Point, measured: Measured) -> Work:
    of_replica = measured.tokens / _layout(point).dp
    mean = of_replica / max(1.0, point.prompts * point.group / _layout(point).dp)
    count = whole(of_replica / max(mean, point.pack - mean / 2))
    return Work(
        tokens=of_replica / count,
        context=mean,
        microbatches=count,
        precision=_FP32,
        stack="megaent",
        head="fused",
        states="bf16",
    )


def _layout(point: Point) -> Layout:
    dp = point.ranks // (point.tp * point.pp * point.cp)
    sharding = "optimizer" if dp > 1 else "replicated"
    return Layout(tp=point.tp, pp=point.pp, cp=point.cp, dp=dp, sharding=sharding)


def _shape(point: Point) -> Shape:
    sizes = point.sizes
    return Shape(
        name="random", hidden=sizes.hidden, layers=sizes.layers, heads=sizes.heads, kv_heads=sizes.kv_heads,
        head_dim=sizes.hidden // sizes.heads, ffn=sizes.ffn, vocab=sizes.vocab, tied=True,
        qkv_bias=True,
    )  # fmt: skip


def _states(point: Point) -> float:
    shape, layout = _shape(point), _layout(point)
    fp32 = Work(tokens=1, context=1, microbatches=1)
    stages = (stage_parameters(shape, layout, stage) for stage in {0, layout.pp - 1})
    return max(sum(state_bytes(held, layout, fp32, weight_bytes=4)) for held in stages)
