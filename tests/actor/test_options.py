"""What the options of an actor decide before it is built."""

from __future__ import annotations

import pytest

from megaent.actor.options import ParallelOptions
from megaent.errors import ConfigError

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
