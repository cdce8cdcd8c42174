"""The canary notices a backend that computes something else, and is silent on one that does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.builders import group
from support.tiny_hf import save_tiny

from megaent.actor.megatron_actor import ActorOptions, MegatronActor
from megaent.actor.optimizer import AdamOptions
from megaent.actor.parallel import Layout
from megaent.errors import NumericsError
from megaent.experience.pack import pack
from megaent.ops import reference
from megaent.types import Experience

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("canary") / "model", family="qwen2", tie=False)


def make(folder: Path, layout: Layout, dtype: str) -> MegatronActor:
    return MegatronActor(folder, layout, ActorOptions(dtype=dtype), AdamOptions(lr=1e-2))


def batch() -> Experience:
    packed = pack([group(0, [1.0, 0.0], [5, 9]), group(1, [0.0, 1.0, 1.0], [3, 1, 17])])
    return replace(packed, token=packed.token % 100)


class Wrong:
    """The reference backend with an entropy that is off by ``error`` nats on one row in three."""

    def __init__(self, error: float) -> None:
        self.error = error
        self.logits_stats = reference.logits_stats

    def stats_combine(self, partials, *, inv_temperature: float) -> torch.Tensor:
        stats = reference.stats_combine(partials, inv_temperature=inv_temperature)
        stats[1, ::3] += self.error
        return stats


def with_wrong_backend(monkeypatch: pytest.MonkeyPatch, error: float) -> None:
    def chosen(name: str | None = None, *_: object) -> object:
        return reference if name == "reference" else Wrong(error)

    monkeypatch.setattr("megaent.ops.token_statistics.get_backend", chosen)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_a_right_backend_passes_and_scores_the_same(layout: Layout, folder: Path, dtype: str) -> None:
    actor = make(folder, layout, dtype)
    plain = actor.score(batch(), temperature=0.7)
    checked = actor.score(batch(), temperature=0.7, check=torch.arange(batch().num_tokens))
    for one, other in ((checked.log_prob_old, plain.log_prob_old), (checked.entropy, plain.entropy)):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_error_of_a_thousandth_of_a_nat_stops_the_run(
    layout: Layout, folder: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = make(folder, layout, dtype)
    with_wrong_backend(monkeypatch, error=2e-3)
    actor.score(batch(), temperature=1.0)  # nobody looked
    with pytest.raises(NumericsError, match=r"disagree on \d+ of the tokens checked.*MEGAENT_OPS_BACKEND"):
        actor.score(batch(), temperature=1.0, check=torch.arange(batch().num_tokens))


def test_only_the_tokens_asked_for_are_checked(
    layout: Layout, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = make(folder, layout, "float32")
    with_wrong_backend(monkeypatch, error=float("nan"))
    monkeypatch.setattr("megaent.actor.megatron_actor.check_statistics", lambda *_: None)
    actor.score(batch(), temperature=1.0, check=torch.arange(0))
    with pytest.raises(NumericsError, match="token 7 of the batch by nan"):
        actor.score(batch(), temperature=1.0, check=torch.tensor([7]))
