"""Scaled rotary embeddings, and layers without any, in every kind of layout against transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.layouts import FP64, LAYOUTS, job, launch
from support.real_shapes import KINDS, REAL, save_shape
from transformers import AutoModelForCausalLM

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

MODELS = {"llama3": REAL["llama-3.1"], "yarn": KINDS["both"], "smollm3-yarn": KINDS["smollm3-yarn"]}
WORLD_OF_2 = [name for name, (world, _) in LAYOUTS.items() if world == 2]


def long_groups() -> list[dict]:
    """Pretraining saw 64 tokens: responses far below it and far above."""
    draw = torch.Generator().manual_seed(2)

    def tokens(count: int) -> list[int]:
        return torch.randint(100, (count,), generator=draw).tolist()

    lengths = ((12, 300), (200, 30), (5, 111), (70, 61))
    return [
        {"prompt": tokens(6), "responses": [tokens(n) for n in pair], "rewards": [1.0, 0.0]}
        for pair in lengths
    ]


GROUPS = long_groups()


def truth(folder: Path) -> torch.Tensor:
    """The log-probability of every response token, in prompt order."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    found = []
    for group in GROUPS:
        for response in group["responses"]:
            with torch.no_grad():
                logits = model(torch.tensor([group["prompt"] + response])).logits[0]
            log_prob_LV = logits[len(group["prompt"]) - 1 : -1].log_softmax(-1)
            found.append(log_prob_LV.gather(-1, torch.tensor(response)[:, None])[:, 0])
    return torch.cat(found).double()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("rotary")
    return {name: save_shape(root / name, config) for name, config in MODELS.items()}


@pytest.fixture(scope="module")
def scored(folders: dict[str, Path]) -> dict[tuple[str, str], torch.Tensor]:
    root = next(iter(folders.values())).parent
    outs = {(layout, name): root / f"{layout}-{name}.pt" for layout in WORLD_OF_2 for name in folders}
    plain = FP64 | {"groups": GROUPS, "temperature": 1.0, "microbatch_tokens": 400}
    launch([job(layout, plain, folders[name], out) for (layout, name), out in outs.items()], 2, root)
    return {key: torch.load(out, weights_only=True)["log_prob"][0] for key, out in outs.items()}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("layout", WORLD_OF_2)
def test_log_probs_are_those_of_transformers(
    folders: dict[str, Path], scored: dict[tuple[str, str], torch.Tensor], layout: str, name: str
) -> None:
    torch.testing.assert_close(scored[layout, name], truth(folders[name]), rtol=0, atol=1e-5)
