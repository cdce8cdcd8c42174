"""What of a mixture's config.json is read, and what is refused because it would be computed otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.real_shapes import REAL

from megaent.actor.router_options import RouterOptions
from megaent.actor.sizes import Sizes
from megaent.errors import ConfigError, ModelError
from megaent.model_folder.architecture import Architecture, read_architecture
from megaent.model_folder.experts import Experts
from megaent.run.introduction import mixture


def read(folder: Path, name: str, **change: object) -> Architecture:
    (folder / "config.json").write_text(json.dumps(REAL[name] | change))
    return read_architecture(folder)


def test_both_families_say_how_many_and_how_they_are_weighed(tmp_path: Path) -> None:
    qwen3 = read(tmp_path, "qwen3-moe")
    assert qwen3.experts == Experts(count=4, chosen=2, normalised=True)
    assert qwen3.intermediate_size == 48
    shares = read(tmp_path, "qwen3-moe", norm_topk_prob=False)
    assert shares.experts == Experts(count=4, chosen=2, normalised=False)
    mixtral = read(tmp_path, "mixtral", num_experts_per_tok=3)
    assert mixtral.experts == Experts(count=4, chosen=3, normalised=True)
    assert mixtral.intermediate_size == 96
    assert read(tmp_path, "qwen3").experts is None


def test_a_mixture_is_introduced_by_its_experts_and_a_dense_model_is_not(tmp_path: Path) -> None:
    read(tmp_path, "qwen3-moe")
    (alone,) = mixture(tmp_path, RouterOptions())
    assert alone == (
        "4 experts a layer, 2 a token; a router learns from the policy's loss alone "
        "(model.router.balance_coef=0 and z_coef=0)"
    )
    (beside,) = mixture(tmp_path, RouterOptions(balance_coef=0.001))
    assert beside.endswith("policy's loss and from model.router.balance_coef=0.001 and z_coef=0")
    read(tmp_path, "qwen3")
    assert mixture(tmp_path, RouterOptions()) == ()


def test_the_count_may_have_either_name(tmp_path: Path) -> None:
    renamed = read(tmp_path, "qwen3-moe", num_experts=None, num_local_experts=6).experts
    assert renamed is not None
    assert renamed.count == 6
    with pytest.raises(ModelError, match="num_local_experts must be equal to num_experts"):
        read(tmp_path, "qwen3-moe", num_local_experts=6)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("qwen3-moe", {"decoder_sparse_step": 2}, "decoder_sparse_step must be 1, got 2"),
        ("qwen3-moe", {"mlp_only_layers": [0]}, "mlp_only_layers must be empty"),
        ("qwen3-moe", {"use_sliding_window": True}, "use_sliding_window"),
        ("qwen3-moe", {"num_experts_per_tok": 5}, "num_experts_per_tok must be at most the 4 experts"),
        ("qwen3-moe", {"num_experts_per_tok": 1}, "num_experts_per_tok must be 2 or more where weights sum"),
        ("mixtral", {"sliding_window": 4096}, "sliding_window must be null, got 4096"),
        ("mixtral", {"router_jitter_noise": 0.1}, "router_jitter_noise must be 0"),
    ],
)
def test_what_is_computed_otherwise_is_refused(tmp_path: Path, name: str, change: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read(tmp_path, name, **change)


@pytest.mark.parametrize(
    ("name", "sizes", "world", "message"),
    [
        ("qwen3", {"ep": 2}, 2, "share out experts, and the model has none"),
        ("qwen3-moe", {"ep": 3}, 3, "expert_model_parallel_size=3 does not divide the model's 4 experts"),
        ("qwen3-moe", {"etp": 5}, 5, "expert_tensor_parallel_size=5 does not divide the model's 48 rows"),
        ("qwen3-moe", {"ep": 4}, 2, "expert 4 x expert tensor 1 = 4 does not divide the 2 processes"),
        ("mixtral", {"tp": 2}, 2, "only with sequence parallelism"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(
    tmp_path: Path, name: str, sizes: dict, world: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Sizes(**sizes).check(read(tmp_path, name), world)


def test_experts_are_refused_under_a_megatron_that_fails_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "megatron_core-0.16.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: megatron-core\nVersion: 0.16.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"needs megatron-core 0\.19, and 0\.16\.1 is installed"):
        Sizes().check(read(tmp_path, "mixtral"), 1)
