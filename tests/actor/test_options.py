"""What the options of an actor decide before it is built."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from megaent.actor.options import ParallelOptions
from megaent.actor.sizes import Sizes
from megaent.errors import ConfigError

MODEL = SimpleNamespace(num_heads=4, num_kv_heads=2, intermediate_size=8, num_layers=8)
WHERE_NOT = [
    ({"context_parallel_size": 2}, "local", "cpu", "context_parallel_size"),
    ({}, "transformer_engine", "cuda", "model.implementation=transformer_engine"),
    ({}, "local", "cuda", "GPU"),
]


def test_prompts_are_shared_where_that_is_possible_and_not_refused() -> None:
    assert ParallelOptions().shares_prompts(implementation="local", device="cpu")
    assert not ParallelOptions(share_prompts=False).shares_prompts(implementation="local", device="cpu")


@pytest.mark.parametrize(("sizes", "implementation", "device", "reason"), WHERE_NOT)
def test_sharing_in_vain_is_refused_with_the_reason(
    sizes: dict, implementation: str, device: str, reason: str
) -> None:
    assert not ParallelOptions(**sizes).shares_prompts(implementation=implementation, device=device)
    with pytest.raises(ConfigError, match=reason):
        ParallelOptions(**sizes, share_prompts=True).shares_prompts(
            implementation=implementation, device=device
        )


@pytest.mark.parametrize(
    ("sizes", "world", "is_shared"),
    [({}, 1, False), ({}, 2, True), ({"tensor_model_parallel_size": 2}, 2, False), ({}, 4, True)],
)
def test_the_optimizers_state_is_shared_out_where_there_are_replicas(
    sizes: dict, world: int, is_shared: bool
) -> None:
    assert ParallelOptions(**sizes).shares_optimizer(world) == is_shared
    assert not ParallelOptions(**sizes, distributed_optimizer=False).shares_optimizer(world)


def test_context_ranks_share_the_optimizers_state_if_asked() -> None:
    sizes = {"context_parallel_size": 2}
    assert not ParallelOptions(**sizes).shares_optimizer(2)
    assert ParallelOptions(**sizes, distributed_optimizer=True).shares_optimizer(2)


def test_sharing_the_optimizers_state_with_nobody_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"distributed_optimizer=true has no effect: 2 processes are one"):
        ParallelOptions(tensor_model_parallel_size=2, distributed_optimizer=True).shares_optimizer(2)


def test_experts_split_both_ways_are_refused_on_a_cpu() -> None:
    both = ParallelOptions(expert_model_parallel_size=2, expert_tensor_parallel_size=2)
    both.require_experts_exchange(device="cuda")
    with pytest.raises(ConfigError, match="gloo cannot; on a CPU leave one of the two at 1"):
        both.require_experts_exchange(device="cpu")
    ParallelOptions(expert_model_parallel_size=2).require_experts_exchange(device="cpu")


@pytest.mark.parametrize(
    ("sizes", "layers"),
    [
        ({"pp": 2}, [4, 4]),
        ({"pp": 4, "vpp": 2}, [2, 2, 2, 2]),
        ({"pp": 2, "first_layers": 3}, [3, 5]),
        ({"pp": 3, "last_layers": 2}, [3, 3, 2]),
        ({"pp": 4, "first_layers": 1, "last_layers": 1}, [1, 3, 3, 1]),
        ({"pp": 2, "first_layers": 7, "last_layers": 1}, [7, 1]),
    ],
)
def test_ends_of_a_pipeline_have_the_layers_they_are_given(sizes: dict, layers: list[int]) -> None:
    assert Sizes(**sizes).layers_of_stages(8) == layers
    Sizes(**sizes).check_model(MODEL)


@pytest.mark.parametrize(
    "sizes",
    [
        {"pp": 3},
        {"pp": 2, "first_layers": 8},
        {"pp": 2, "first_layers": 9},
        {"pp": 2, "first_layers": 3, "last_layers": 3},
        {"pp": 4, "first_layers": 1},
        {"pp": 2, "vpp": 2, "first_layers": 3},
    ],
)
def test_stages_that_cannot_be_are_refused(sizes: dict) -> None:
    with pytest.raises(ConfigError, match="8 layers"):
        Sizes(**sizes).check_model(MODEL)


def test_layers_for_the_ends_of_no_pipeline_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"num_layers_in_first_pipeline_stage=3 needs .* 2 pipeline stages"):
        ParallelOptions(num_layers_in_first_pipeline_stage=3)
