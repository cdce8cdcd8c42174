"""A folder whose files contradict each other, or hold what is not computed, is refused in one line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.real_shapes import REAL, save_shape

from megaent.errors import ModelError
from megaent.model_folder.architecture import read_config
from megaent.model_folder.contents import check_weights
from megaent.model_folder.stored import INDEX, SINGLE, stored_tensors

Weights = dict[str, torch.Tensor]
PROJECTION = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("contents")
    return {
        name: save_shape(root / name, REAL[name]) for name in ("llama-3.1", "qwen2.5", "smollm3", "qwen3")
    }


@pytest.fixture
def tied(made: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(made["qwen2.5"], tmp_path / "tied")


@pytest.fixture
def untied(made: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(made["llama-3.1"], tmp_path / "untied")


def rewrite(folder: Path, change: Callable[[Weights], object]) -> None:
    weights = load_file(folder / SINGLE)
    change(weights)
    save_file(weights, folder / SINGLE, metadata={"format": "pt"})


def set_config(folder: Path, **change: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as refused:
        check_weights(folder)
    said = str(refused.value)
    assert "\n" not in said
    assert str(folder) in said
    return said


def shard(folder: Path) -> dict[str, str]:
    """Two files and an index in the place of one file; the index's map."""
    weights = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    names = sorted(weights)
    files = {1: names[::2], 2: names[1::2]}
    where = {}
    for number, part in files.items():
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": where}))
    return where


# ---------------------------------------------------------------- what is fine


def test_headers_say_what_the_library_reads(made: dict[str, Path]) -> None:
    for folder in made.values():
        stored, weights = stored_tensors(folder), load_file(folder / SINGLE)
        assert {name: tensor.shape for name, tensor in stored.items()} == {
            name: tuple(value.shape) for name, value in weights.items()
        }
        for name, tensor in stored.items():
            assert b"".join(tensor.chunks()) == weights[name].numpy().tobytes()
        assert check_weights(folder) == []


def test_shards_are_one_model(untied: Path) -> None:
    before = stored_tensors(untied).keys()
    shard(untied)
    assert stored_tensors(untied).keys() == before
    assert check_weights(untied) == []


def test_what_is_left_out_is_named(tied: Path) -> None:
    def old_and_tied(weights: Weights) -> None:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
        weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)

    rewrite(tied, old_and_tied)
    save_file({"w": torch.ones(1)}, tied / "consolidated.safetensors")
    assert check_weights(tied) == [
        "lm_head.weight: a copy of the embedding",
        "model.layers.0.self_attn.rotary_emb.inv_freq: follows from config.json",
        "consolidated.safetensors: no part of the model by its index",
    ]


# ---------------------------------------------------------------- contradictions


def test_another_output_layer_beside_a_tied_one_is_refused(tied: Path) -> None:
    def other(weights: Weights) -> None:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
        weights["lm_head.weight"][-1, -1] += 1

    rewrite(tied, other)
    assert "set tie_word_embeddings to false" in refusal(tied)
    set_config(tied, tie_word_embeddings=False)
    assert check_weights(tied) == []


def test_a_class_that_ties_by_itself_is_tied(made: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(made["smollm3"], tmp_path / "m")
    rewrite(folder, lambda weights: weights.update({"lm_head.weight": torch.ones(100, 64)}))
    assert "which some models take for granted" in refusal(folder)


def test_an_untied_model_without_output_layer_is_refused(untied: Path) -> None:
    rewrite(untied, lambda weights: weights.pop("lm_head.weight"))
    assert "lacks tensors: lm_head.weight;" in refusal(untied)


def test_a_single_file_beside_an_index_is_refused(untied: Path) -> None:
    single = (untied / SINGLE).read_bytes()
    where = shard(untied)
    (untied / SINGLE).write_bytes(single)
    assert f"both {SINGLE} and {INDEX}" in refusal(untied)
    (untied / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(where, SINGLE)}))
    assert check_weights(untied) == [
        f"model-0000{n}-of-00002.safetensors: no part of the model by its index" for n in (1, 2)
    ]
    (untied / INDEX).unlink()
    assert "model-00001-of-00002.safetensors without" in refusal(untied)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda where: where.pop(PROJECTION), f"{PROJECTION} is in its files and not in {INDEX}"),
        (lambda where: where.update({"more": where[PROJECTION]}), f"more is in {INDEX} and not in its files"),
        (lambda where: where.update({PROJECTION: "../elsewhere.safetensors"}), "to a file beside it"),
        (lambda where: where.update({PROJECTION: "model-00003-of-00002.safetensors"}), "is missing, and"),
        (lambda where: where.update({PROJECTION: 3}), "to a file beside it"),
    ],
)
def test_an_index_that_is_not_its_files_is_refused(untied: Path, spoil: Callable, says: str) -> None:
    where = shard(untied)
    spoil(where)
    (untied / INDEX).write_text(json.dumps({"weight_map": where}))
    assert says in refusal(untied)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.0.self_attn.q_proj.bias", (64,)),
        ("model.layers.0.self_attn.o_proj.bias", (64,)),
        ("model.layers.2.mlp.down_proj.bias", (64,)),
        ("model.layers.1.self_attn.q_norm.weight", (16,)),
        ("model.layers.4.mlp.up_proj.weight", (96, 64)),
        ("score.weight", (1, 64)),
    ],
)
def test_weights_that_the_architecture_does_not_have_are_refused(
    untied: Path, name: str, shape: tuple
) -> None:
    rewrite(untied, lambda weights: weights.update({name: torch.zeros(shape)}))
    assert f"has unknown tensors: {name};" in refusal(untied)


def test_a_shape_that_is_not_that_of_the_config_is_refused(untied: Path) -> None:
    rewrite(untied, lambda weights: weights.update({PROJECTION: torch.zeros(64, 96)}))
    assert f"{PROJECTION} has shape [64, 96], config.json needs [96, 64]" in refusal(untied)


def test_an_adapter_beside_a_model_is_refused(untied: Path) -> None:
    (untied / "adapter_config.json").write_text("{}")
    assert "merge the adapter" in refusal(untied)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("qwen2.5", {"use_sliding_window": True}, "a sliding window of 131072 tokens"),
        ("qwen3", {"layer_types": ["full_attention"] * 3 + ["sliding_attention"]}, "got 'sliding_attention'"),
        ("qwen3", {"layer_types": ["full_attention"] * 3}, "layer_types must be a list of 4 names"),
        ("llama-3.1", {"layer_types": ["chunked_attention"] * 4}, "got 'chunked_attention'"),
        ("llama-3.1", {"attention_bias": True}, "attention_bias=true is not supported"),
        ("llama-3.1", {"mlp_bias": True}, "mlp_bias=true is not supported"),
        ("qwen3", {"attention_bias": True}, "attention_bias=true is not supported"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "no_rope_layers must be a list of 0 and 1"),
        (
            "smollm3",
            {"use_sliding_window": True, "sliding_window": 8, "layer_types": None},
            "a sliding window of 8 tokens",
        ),
        ("llama-3.1", {"hidden_act": "gelu"}, "hidden_act must be silu, got 'gelu'"),
        ("llama-3.1", {"model_type": "mistral"}, "got 'mistral'"),
        ("llama-3.1", {"model_type": ["llama"]}, r"got ['llama']"),
        (
            "llama-3.1",
            {"num_hidden_layers": "4"},
            "num_hidden_layers must be a whole number above 0, got '4'",
        ),
        ("llama-3.1", {"vocab_size": -3}, "vocab_size must be a whole number above 0, got -3"),
        ("llama-3.1", {"rms_norm_eps": "small"}, "rms_norm_eps must be a number above 0, got 'small'"),
        ("llama-3.1", {"rms_norm_eps": 10**400}, "rms_norm_eps must be a number above 0"),
        ("llama-3.1", {"tie_word_embeddings": "no"}, "tie_word_embeddings must be true or false, got 'no'"),
        ("llama-3.1", {"hidden_size": None}, "lacks the key 'hidden_size'"),
        ("llama-3.1", {"num_key_value_heads": 3}, "must divide among 3 key/value heads"),
        ("llama-3.1", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ("llama-3.1", {"quantization_config": {"load_in_4bit": True}}, "of an unknown kind"),
        ("llama-3.1", {"compression_config": {"format": "pack-quantized"}}, "pack-quantized"),
    ],
)
def test_what_is_not_computed_is_refused_by_its_name(
    made: dict[str, Path], tmp_path: Path, name: str, change: dict, says: str
) -> None:
    folder = shutil.copytree(made[name], tmp_path / "m")
    set_config(folder, **change)
    assert says in refusal(folder)


def test_windows_that_no_layer_uses_are_no_matter(tied: Path) -> None:
    set_config(tied, use_sliding_window=True, max_window_layers=4)
    assert check_weights(tied) == []
    set_config(tied, use_sliding_window=True, max_window_layers=0, sliding_window=None)
    assert check_weights(tied) == []


# ---------------------------------------------------------------- quantised and packed


@pytest.mark.parametrize(
    "tensors",
    [
        {
            PROJECTION: torch.zeros(96, 64).to(torch.float8_e4m3fn),
            PROJECTION + "_scale_inv": torch.ones(1, 1),
        },
        {PROJECTION: torch.zeros(96, 64).to(torch.float8_e5m2)},
        {
            PROJECTION: torch.zeros(96, 64, dtype=torch.int8),
            PROJECTION.replace("weight", "SCB"): torch.ones(96),
        },
        {PROJECTION.replace("weight", "qweight"): torch.zeros(8, 96, dtype=torch.int32)},
        {PROJECTION: torch.zeros(3072, 1, dtype=torch.uint8), PROJECTION + ".absmax": torch.ones(96)},
        {PROJECTION.replace("weight", "weight_packed"): torch.zeros(96, 8, dtype=torch.int32)},
        {PROJECTION + "_scale": torch.ones(96, 1)},
    ],
    ids=lambda tensors: "-".join(name.rpartition(".")[2] for name in tensors),
)
def test_quantised_tensors_are_refused_also_without_a_word_in_the_config(
    untied: Path, tensors: Weights
) -> None:
    rewrite(untied, lambda weights: weights.update(tensors))
    said = refusal(untied)
    assert "quantised or packed" in said
    assert "release in bfloat16" in said


@pytest.mark.parametrize("marker", ["quantize_config.json", "quant_config.json"])
def test_older_marks_of_a_quantised_folder_count(untied: Path, marker: str) -> None:
    (untied / marker).write_text('{"bits": 4}')
    assert "quantised" in refusal(untied)


@pytest.mark.parametrize(
    "file", ["model-Q4_K_M.gguf", "pytorch_model.bin", "model.pth", "tf_model.h5", "none.txt"]
)
def test_weights_of_another_format_are_refused(untied: Path, file: str) -> None:
    (untied / SINGLE).rename(untied / file)
    assert f"has neither {SINGLE} nor {INDEX}" in refusal(untied)


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: b"", "damaged or cut"),
        (lambda data: data[:4], "damaged or cut"),
        (lambda data: data[:100], "damaged or cut"),
        (lambda data: data[:-1], "bytes and its header tells of"),
        (lambda data: data + b"\0", "bytes and its header tells of"),
        (lambda data: data[:8] + b"[" + data[9:], "its header is damaged"),
        (lambda data: (2**62).to_bytes(8, "little") + data[8:], "damaged or cut"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (lambda data: data.replace(b'"F32"', b'"F16"', 1), "bytes for F16"),
    ],
)
def test_a_damaged_weight_file_is_named(untied: Path, damage: Callable[[bytes], bytes], says: str) -> None:
    file = untied / SINGLE
    file.write_bytes(damage(file.read_bytes()))
    said = refusal(untied)
    assert str(file) in said
    assert says in said


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"weight_map": []}', '{"weight_map": {}}', "\ufeff{}"]
)
def test_a_damaged_index_is_named(untied: Path, text: str) -> None:
    shard(untied)
    (untied / INDEX).write_text(text)
    assert str(untied / INDEX) in refusal(untied)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Qwen/Qwen2.5-0.5B", "run `hf download Qwen/Qwen2.5-0.5B --local-dir Qwen2.5-0.5B` first"),
        ("nowhere", "get_smollm2 makes one"),
        ("adapter", "it is an adapter: merge it into its model first"),
    ],
)
def test_what_is_no_model_folder_is_refused_with_the_way_to_one(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match=re.escape(says)):
        read_config(tmp_path / name)
