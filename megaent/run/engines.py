"""The engines that ``rollout=`` can name; a new one is a folder under rollout/, a builder and a line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from megaent.rollout.embedded.options import EmbeddedOptions
from megaent.rollout.options import FakeOptions, Leader, RolloutOptions
from megaent.rollout.sglang.options import SGLangOptions

if TYPE_CHECKING:
    from megaent.rollout.engine import RolloutEngine


def build_engine(options: RolloutOptions, leader: Leader) -> RolloutEngine:
    """The engine of these options, not yet holding any of the run's weights."""
    return ENGINES[options.name].build(options, leader)


# Each builder imports its engine: what is not asked for is not loaded.


def _embedded(options: EmbeddedOptions, leader: Leader) -> RolloutEngine:
    import torch

    from megaent.rollout.embedded.engine import EmbeddedEngine

    return EmbeddedEngine(
        leader.model,
        dtype=getattr(torch, options.dtype or leader.dtype),
        device=leader.device,
        batch_size=options.batch_size,
        load_weights=False,
    )


def _sglang(options: SGLangOptions, leader: Leader) -> RolloutEngine:
    from megaent.run.launch_sglang import start_sglang

    return start_sglang(options, leader)


def _fake(options: FakeOptions, leader: Leader) -> RolloutEngine:
    from megaent.rollout.fake import FakeEngine

    return FakeEngine(leader.vocab_size, context_length=leader.context_length)


class Entry(NamedTuple):
    options: type[RolloutOptions]
    build: Callable[[Any, Leader], RolloutEngine]


ENGINES = {
    "embedded": Entry(EmbeddedOptions, _embedded),
    "sglang": Entry(SGLangOptions, _sglang),
    "fake": Entry(FakeOptions, _fake),
}
