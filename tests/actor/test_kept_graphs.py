"""A graph that scoring kept gives the bits of a second pass, is used once, and never when it is stale."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.builders import group, seen
from support.tiny_hf import save_tiny
from torch import Tensor

from megaent.actor.kept_graphs import graph_bytes_per_token
from megaent.actor.megatron_actor import ActorOptions, MegatronActor
from megaent.actor.microbatch import PackRules, build_microbatch
from megaent.actor.model import PolicyModel
from megaent.actor.optimizer import AdamOptions
from megaent.actor.parallel import Layout
from megaent.actor.sizes import Sizes
from megaent.experience.pack import pack
from megaent.methods import build_method
from megaent.objective.estimate import estimate
from megaent.types import Experience, TokenTerms

pytestmark = pytest.mark.full
METHOD = build_method({"grpo": {}}).phases[0].method


@pytest.fixture(scope="module", params=["qwen2", "qwen3"])
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return save_tiny(tmp_path_factory.mktemp("kept") / "model", family=request.param, tie=True)


def make(folder: Path, layout: Layout, gib: float, *, tokens: int = 30) -> MegatronActor:
    options = ActorOptions(microbatch_tokens=tokens, share_prompts=True, kept_graphs_gib=gib)
    return MegatronActor(folder, layout, options, AdamOptions(lr=1e-2))


def batch(*, shift: int = 0) -> Experience:
    packed = pack([group(0, [1.0, 0.0], [5, 9]), group(1, [0.0, 1.0, 1.0], [3, 1, 17])])
    return replace(packed, token=(packed.token + shift) % 100, minibatch=packed.group)


def step(actor: MegatronActor, scored: Experience) -> TokenTerms:
    terms, _ = estimate(METHOD, replace(seen(scored), minibatch_S=scored.minibatch, num_minibatches=2))
    actor.update(scored, terms, METHOD.loss, temperature=1.0, num_minibatches=2)
    return terms


def weights(actor: MegatronActor) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in actor.named_weights()}


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry a pass that was really made: its tokens."""
    made: list[int] = []
    whole = PolicyModel.forward

    def counted(self, input_ids: Tensor, *args: object, **more: object) -> Tensor:
        made.append(input_ids.numel())
        return whole(self, input_ids, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(PolicyModel, "forward", counted)
    return made


def test_one_pass_or_two_end_in_the_same_bits(layout: Layout, folder: Path, passes: list[int]) -> None:
    ends, counts = [], []
    for gib in (0.0, 1.0):
        actor = make(folder, layout, gib)
        passes.clear()
        for _ in range(3):
            step(actor, actor.score(batch(), temperature=1.0))
        ends.append(weights(actor))
        counts.append(len(passes))
    assert counts == [3 * (2 + 2), 3 * (2 + 1)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_only_what_fits_is_kept(layout: Layout, folder: Path, passes: list[int]) -> None:
    per_token = graph_bytes_per_token(make(folder, layout, 0.0).architecture, Sizes(), 4)
    one = replace(batch(), minibatch=torch.zeros(5, dtype=torch.int64))  # packs of 19 and 20 tokens
    for tokens, expected in ((0, 4), (18, 4), (19, 3), (38, 3), (39, 2)):
        actor = make(folder, layout, (tokens * per_token + 1) / 2**30, tokens=20)
        passes.clear()
        step(actor, actor.score(one, temperature=1.0))
        assert len(passes) == expected, (tokens, passes)


def test_a_stale_graph_is_not_used(layout: Layout, folder: Path) -> None:
    """Learnt from twice, another batch or another temperature: as an actor that keeps nothing."""
    ends = []
    for gib in (0.0, 1.0):
        actor = make(folder, layout, gib)
        first = actor.score(batch(), temperature=1.0)
        step(actor, first)
        step(actor, first)
        other = actor.score(batch(shift=7), temperature=1.0)
        actor.score(batch(), temperature=1.0)
        step(actor, other)
        cold = actor.score(batch(), temperature=0.5)
        step(actor, cold)
        ends.append(weights(actor))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_the_reference_policy_does_not_disturb_what_is_kept(layout: Layout, folder: Path) -> None:
    ends = []
    for gib in (0.0, 1.0):
        actor = make(folder, layout, gib)
        actor.keep_reference()
        step(actor, actor.score(batch(), temperature=1.0, with_reference=True))
        ends.append(weights(actor))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_the_bytes_of_a_graph_are_estimated_from_above_and_closely(layout: Layout, folder: Path) -> None:
    actor = make(folder, layout, 0.0)
    parameters = {p.untyped_storage().data_ptr() for model in actor.models for p in model.parameters()}
    held: dict[int, Tensor] = {}

    def hold(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    microbatch = build_microbatch(batch(), [0, 1], PackRules(100, shares_prompts=True))
    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        actor.models[0](
            microbatch.input_ids,
            microbatch.position_ids,
            packed=microbatch.packed,
            row=microbatch.row,
            target=microbatch.target,
            temperature=1.0,
        )
    counted = sum(tensor.untyped_storage().nbytes() for tensor in held.values())
    estimated = graph_bytes_per_token(actor.architecture, Sizes(), 4) * microbatch.input_ids.numel()
    assert 0.8 * estimated <= counted <= 1.1 * estimated
