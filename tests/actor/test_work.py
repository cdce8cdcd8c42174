"""The work of a model, against the products that torch counts in another implementation of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tiny_hf import save_tiny
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from megaent.actor.work import work_of
from megaent.model_folder.architecture import read_architecture

pytestmark = pytest.mark.full


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_a_forward_pass_takes_the_products_that_torch_counts(tmp_path: Path, family: str) -> None:
    """Eager attention forms the whole square of pairs, the masked half included."""
    folder = save_tiny(tmp_path, family=family, tie=False)
    architecture = read_architecture(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    length = 11
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.arange(length)[None], use_cache=False)
    work = work_of(architecture, shares_prompts=False)
    expected = length * (work.per_token + work.per_prediction) + length**2 * work.per_pair
    assert counter.get_total_flops() == expected
