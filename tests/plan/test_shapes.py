"""Named shapes against the parameter counts of the published weights; what contradicts itself is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny_hf import save_tiny
from transformers import AutoModelForCausalLM

from megaent.errors import ConfigError
from megaent.plan.parameters import stage_parameters
from megaent.plan.question import read_question
from megaent.plan.rows import hardware_operations
from megaent.plan.shapes import SHAPES, find_shape, folder_shape

# Elements of every tensor in the models' own files.
PUBLISHED = {
    "Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen2.5-7B": 7_615_616_512,
    "Qwen2.5-32B": 32_763_876_352,
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-30B-A3B": 30_532_122_624,
    "Llama-3.1-8B-Instruct": 8_030_261_248,
    "Llama-3.1-70B": 70_553_706_496,
    "SmolLM2-135M": 134_515_008,
}


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_a_named_shape_has_as_many_parameters_as_its_files(name: str, count: int) -> None:
    assert find_shape(name).parameters == count


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("tie", [True, False])
def test_a_folder_has_as_many_parameters_as_transformers_loads(
    tmp_path: Path, family: str, tie: bool
) -> None:
    folder = save_tiny(tmp_path, family=family, tie=tie)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert folder_shape(folder).parameters == sum(p.numel() for p in loaded.parameters())


def test_a_gpt_does_the_operations_of_its_paper() -> None:
    """2104.04473, equation 3: 96 B s l h^2 (1 + s/6h + V/16lh), per token."""
    shape, length = SHAPES["gpt_18_4b"], 2048
    width, depth, vocab = shape.hidden, shape.layers, shape.padded_vocab
    expected = 96 * depth * width**2 * (1 + length / (6 * width) + vocab / (16 * depth * width))
    assert hardware_operations(shape, length) == pytest.approx(expected, rel=1e-3)


def test_stages_of_a_pipeline_hold_the_model_and_a_second_copy_of_tied_weights() -> None:
    from megaent.plan.layout import Layout

    for name in ("qwen2_5_7b", "qwen2_5_1_5b"):
        shape = SHAPES[name]
        layout = Layout(pp=4)
        held = sum(stage_parameters(shape, layout, stage).total for stage in range(4))
        padding = (shape.padded_vocab - shape.vocab) * shape.hidden * (1 if shape.tied else 2)
        twice = shape.padded_vocab * shape.hidden if shape.tied else 0
        assert held == shape.parameters + padding + twice


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model=qwen2_5_33b"], "did you mean qwen2_5_3"),
        (["model=qwen2_5_32b", "layers=65"], "layers=65 contradicts qwen2_5_32b, which has 64"),
        (["model=qwen2_5_32b", "params_b=30"], "params_b=30.0 contradicts .* 32.76 billion"),
        (
            ["model=own", "hidden=512", "layers=4", "heads=6", "kv_heads=4", "ffn=64", "vocab=100"],
            "6 heads do not divide among 4 key/value heads; the nearest that do are 3",
        ),
        (
            ["model=own", "hidden=512", "layers=4", "heads=8", "ffn=64", "vocab=100", "experts=4"],
            "0 experts a token of 4",
        ),
    ],
)
def test_a_shape_that_contradicts_itself_is_refused(words: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_question(words).read_shape()
