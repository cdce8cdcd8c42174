"""Frequencies and architecture against transformers' own, for fields of real models and every kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.real_shapes import KINDS, REAL
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from megaent.actor.rotary import inverse_frequencies
from megaent.errors import ModelError
from megaent.model_folder.architecture import FAMILIES, Architecture, read_architecture

POSITIONS = torch.tensor([0, 1, 7, 63, 64, 65, 200, 1023, 5000, 131071])


def both(folder: Path, config: dict[str, Any]) -> tuple[Architecture, PreTrainedConfig]:
    text = json.dumps({key: value for key, value in config.items() if value is not None})
    (folder / "config.json").write_text(text)
    return read_architecture(folder), AutoConfig.from_pretrained(folder)


@pytest.mark.parametrize("name", [*REAL, *KINDS])
def test_cos_and_sin_are_transformers_at_every_position(tmp_path: Path, name: str) -> None:
    ours, theirs = both(tmp_path, (REAL | KINDS)[name])
    with torch.device("meta"):
        kind = type(AutoModelForCausalLM.from_config(theirs).model.rotary_emb)
    rotary = kind(theirs)
    # Of one position at a time: `dynamic` looks at the longest.
    within = (
        POSITIONS[theirs.max_position_embeddings > POSITIONS] if ours.rotary.kind == "dynamic" else POSITIONS
    )
    frequency_I = inverse_frequencies(ours.rotary, ours.head_dim)
    for position in within:
        cos, sin = rotary(torch.zeros(1), position[None, None])
        angle_I = (position.float() * frequency_I).repeat(2)
        torch.testing.assert_close(angle_I.cos() * ours.rotary.attention_factor, cos[0, 0], rtol=0, atol=1e-5)
        torch.testing.assert_close(angle_I.sin() * ours.rotary.attention_factor, sin[0, 0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [1, 1024, 1025, 3000, 100000])
def test_dynamic_frequencies_are_those_of_the_length(tmp_path: Path, length: int) -> None:
    ours, theirs = both(tmp_path, KINDS["dynamic"])
    expected, factor = ROPE_INIT_FUNCTIONS["dynamic"](theirs, torch.device("cpu"), seq_len=length)
    found = inverse_frequencies(ours.rotary, ours.head_dim, stretch=length / theirs.max_position_embeddings)
    assert factor == 1
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_what_config_json_leaves_out_is_what_transformers_takes(tmp_path: Path) -> None:
    """Every family, each key that has a default left out in turn."""
    keys = (
        "head_dim",
        "num_key_value_heads",
        "tie_word_embeddings",
        "rope_theta",
        "no_rope_layers",
        "layer_types",
    )
    for name in ("llama-3.2", "qwen2.5", "qwen3", "smollm3"):
        for key in keys:
            config = {k: v for k, v in REAL[name].items() if k != key and k != "rope_scaling"}
            # So many heads that a class's own number of key/value heads divides them.
            config |= {"num_attention_heads": 64, "hidden_size": 128}
            ours, theirs = both(tmp_path, config)
            head_dim = getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
            turned = getattr(theirs, "no_rope_layers", [1] * 4)
            assert ours.head_dim == head_dim, (name, key)
            assert ours.num_kv_heads == theirs.num_key_value_heads, (name, key)
            assert ours.tie_embeddings == theirs.tie_word_embeddings, (name, key)
            assert ours.rotary.theta == theirs.rope_parameters["rope_theta"], (name, key)
            assert ours.no_rope_layers == tuple(i for i in range(4) if not turned[i]), (name, key)


def test_the_families_are_known_to_transformers() -> None:
    import transformers

    for name, family in FAMILIES.items():
        assert getattr(transformers, family.class_name).config_class.model_type == name


YARN = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "got rope_type 'longrope'"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}, "got rope_type 'mrope'"),
        ({"rope_parameters": {"rope_type": ["yarn"]}}, r"got rope_type \['yarn'\]"),
        ({"rope_scaling": {"rope_type": "linear"}}, "lacks the key 'factor'"),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": "8"}},
            "factor must be a number above 0, got '8'",
        ),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "lacks the key 'low_freq_factor'"),
        ({"rope_scaling": YARN | {"factor": -1}}, "factor must be a number above 0"),
        ({"rope_scaling": YARN, "original_max_position_embeddings": 32}, "twice, 64 in .* and 32 beside it"),
        ({"rope_scaling": YARN, "rope_parameters": {"rope_theta": 5e5}}, r"another rope_theta \(500000, not"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "by layer type"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5"),
        ({"rope_parameters": {"partial_rotary_factor": 0.25}}, "partial_rotary_factor=0.25"),
        ({"rope_scaling": "yarn"}, "rope_scaling must be an object, got 'yarn'"),
        ({"rope_theta": 0}, "rope_theta must be a number above 0"),
    ],
)
def test_what_is_not_computed_is_refused_by_its_name(tmp_path: Path, change: dict, message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(REAL["qwen2.5"] | change))
    with pytest.raises(ModelError, match=message) as refused:
        read_architecture(tmp_path)
    assert "\n" not in str(refused.value)
    assert str(tmp_path / "config.json") in str(refused.value)
