"""Actor, embedded engine and transformers compute one model, below and far above the original length."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.real_shapes import KINDS, REAL, save_shape
from torch import Tensor
from transformers import AutoModelForCausalLM

from megaent.actor.megatron_actor import ActorOptions, MegatronActor
from megaent.actor.optimizer import AdamOptions
from megaent.actor.parallel import Layout
from megaent.experience.pack import pack
from megaent.rollout.embedded.engine import EmbeddedEngine
from megaent.types import Grade, Group, Prompt, Response, RolloutRequest, SamplingParams

pytestmark = pytest.mark.full


def long_groups() -> list[Group]:
    """Responses of 20 and 900 tokens, where pretraining saw 64 and the model sees 1024."""
    draw = torch.Generator().manual_seed(1)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(100, (count,), generator=draw).tolist())

    return [
        Group(
            index=index,
            prompt=Prompt(id=str(index), tokens=tokens(7), text="", answer=""),
            responses=(Response(tokens=tokens(count), log_prob=(0.0,) * count, finish="length", version=0),),
            grades=(Grade(reward=0.0, correct=False),),
        )
        for index, count in enumerate((20, 900))
    ]


def log_probs(folder: Path, prompt: tuple[int, ...], response: tuple[int, ...]) -> Tensor:
    """Of every response token, by transformers, in fp64."""
    # For experts torch's grouped products, the default, know no fp64.
    how = {"dtype": torch.float64, "experts_implementation": "eager"}
    model = AutoModelForCausalLM.from_pretrained(folder, **how).eval()
    with torch.no_grad():
        logits_LV = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    return logits_LV.log_softmax(-1).gather(-1, torch.tensor(response)[:, None])[:, 0]


@pytest.mark.parametrize("name", [*REAL, *KINDS])
def test_actor_and_engine_are_transformers(tmp_path: Path, layout: Layout, name: str) -> None:
    folder = save_shape(tmp_path / name, (REAL | KINDS)[name])
    actor = MegatronActor(folder, layout, ActorOptions(dtype="float64"), AdamOptions(lr=0.0))
    groups = long_groups()
    scored = actor.score(pack(groups), temperature=1.0)
    expected = [log_probs(folder, g.prompt.tokens, g.responses[0].tokens) for g in groups]
    assert scored.log_prob_old is not None
    torch.testing.assert_close(scored.log_prob_old, torch.cat(expected).double(), rtol=0, atol=1e-5)

    engine = EmbeddedEngine(folder, dtype=torch.float64)
    request = RolloutRequest(index=0, prompt=groups[0].prompt, seeds=(1,))
    [drawn] = engine.generate([request], SamplingParams(max_new_tokens=150))
    [response] = drawn.responses
    found = torch.tensor(response.log_prob, dtype=torch.float64)
    torch.testing.assert_close(
        found, log_probs(folder, groups[0].prompt.tokens, response.tokens), rtol=0, atol=1e-5
    )


def test_scaling_matters_in_these_models(tmp_path: Path) -> None:
    """Or the test above would hold whatever the frequencies."""
    plain = REAL["qwen2.5"] | {"rope_theta": 10000.0}
    group = long_groups()[1]
    tokens = group.prompt.tokens, group.responses[0].tokens
    unscaled = log_probs(save_shape(tmp_path / "plain", plain), *tokens)
    for name in ("linear", "both", "yarn-factor", "yarn-ramp"):
        scaled = log_probs(save_shape(tmp_path / name, KINDS[name]), *tokens)
        assert (scaled - unscaled).abs().max() > 1e-2, name
