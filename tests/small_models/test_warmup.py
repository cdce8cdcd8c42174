"""The demonstration's model: an ordinary checkpoint, the same bits however it was made."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from megaent.data.chain_sum import ChainSumOptions
from megaent.data.hidden_numbers import HiddenNumbersOptions
from megaent.data.jsonl import JsonlOptions
from megaent.data.options import DataOptions
from megaent.data.two_strategies import TwoStrategiesOptions
from megaent.data.worked_sums import WorkedSumsOptions
from megaent.errors import ConfigError, ModelError
from megaent.small_models.options import DemoModelOptions
from megaent.small_models.sealed_folder import is_intact
from megaent.small_models.warmup import (
    _batches,
    demo_model_path,
    make_demo_model,
    make_model,
    make_tokenizer,
    wait_for_demo_model,
)
from megaent.small_models.warmup_recipe import RECIPES, recipe_of

MODEL = DemoModelOptions(
    hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=1, warmup_steps=31, warmup_batch=4
)
DATA = ChainSumOptions(largest=2, operands_max=4)


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return []


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> Path:
    return make_demo_model(MODEL, DATA, cache_dir=tmp_path_factory.mktemp("cache"), report=lines.append)


def test_the_loss_falls_and_is_reported(checkpoint: Path, lines: list[str]) -> None:
    losses = [float(loss) for line in lines for loss in re.findall(r"warm-up step .* loss ([0-9.]+)", line)]
    assert len(losses) == 2
    assert losses[1] < losses[0] - 1


def test_it_is_an_ordinary_checkpoint(checkpoint: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    assert model.dtype == torch.float32
    assert (model.config.model_type, model.config.vocab_size, len(tokenizer)) == ("qwen2", 64, 64)
    assert GenerationConfig.from_pretrained(checkpoint).eos_token_id == tokenizer.eos_token_id == 1
    ids = tokenizer("Q a2 b1 =", return_tensors="pt").input_ids
    assert tokenizer.convert_ids_to_tokens(ids[0].tolist()) == ["Q", "a", "2", "b", "1", "="]
    assert torch.isfinite(model(ids).logits).all()


def test_a_damaged_one_is_made_again_with_the_same_bits(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = checkpoint / "model.safetensors"
    original = weights.read_bytes()
    weights.write_bytes(original[:-4] + b"\0\0\0\0")
    # Threads, working directory and random state of the caller must not reach the result.
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.chdir(os.sep)
    torch.manual_seed(123)
    assert make_demo_model(MODEL, DATA, cache_dir=checkpoint.parent, report=lambda line: None) == checkpoint
    assert weights.read_bytes() == original


def test_an_intact_one_is_taken_from_the_cache(checkpoint: Path) -> None:
    lines: list[str] = []
    before = checkpoint.stat().st_mtime_ns
    make_demo_model(MODEL, DATA, cache_dir=checkpoint.parent, report=lines.append)
    assert (lines, checkpoint.stat().st_mtime_ns) == ([], before)
    assert wait_for_demo_model(MODEL, DATA, cache_dir=checkpoint.parent, timeout_s=0.0) == checkpoint


def test_what_shapes_the_model_names_its_folder(tmp_path: Path) -> None:
    changes = {"warmup_seed": 1, "warmup_steps": 30, "hidden_size": 64, "tie_embeddings": False}
    paths = {demo_model_path(replace(MODEL, **{k: v}), DATA, cache_dir=tmp_path) for k, v in changes.items()}
    paths.add(demo_model_path(MODEL, replace(DATA, teacher_error=0.3), cache_dir=tmp_path))
    paths.add(demo_model_path(MODEL, DATA, cache_dir=tmp_path))
    assert len(paths) == 6
    # How many prompts are trained on later shapes nothing.
    same = demo_model_path(MODEL, replace(DATA, train_prompts=7, seed=5), cache_dir=tmp_path)
    assert same == demo_model_path(MODEL, DATA, cache_dir=tmp_path)


def test_waiting_has_a_limit(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"within 0\.1 s"):
        wait_for_demo_model(MODEL, DATA, cache_dir=tmp_path, timeout_s=0.1)


def test_a_failure_shows_the_makers_last_lines(tmp_path: Path) -> None:
    impossible = replace(MODEL)
    impossible.num_kv_heads = 3  # after the schema's own check, so that the maker meets it
    with pytest.raises(ModelError, match=r"ended with code 1; its last lines:\n[\s\S]*Error"):
        make_demo_model(impossible, DATA, cache_dir=tmp_path, report=lambda line: None)
    assert not is_intact(demo_model_path(impossible, DATA, cache_dir=tmp_path))


@pytest.mark.parametrize("data", [ChainSumOptions(), TwoStrategiesOptions()])
def test_a_recipe_reaches_the_maker_as_it_is(data: DataOptions) -> None:
    recipe = recipe_of(MODEL, data)
    kind = next(kind for kind in RECIPES if kind.task == recipe.task)
    assert kind(**json.loads(json.dumps(asdict(recipe)))) == recipe


def test_the_demonstrations_checkpoint_keeps_its_name() -> None:
    # Published numbers are of this one; a new name would say that they are of another.
    assert recipe_of(DemoModelOptions(), ChainSumOptions()).name == "demo-60bbc756d0decf63"


def test_what_shapes_two_strategies_names_its_folder() -> None:
    data = TwoStrategiesOptions()
    changes = {"modulus": 11, "careful_share": 0.5, "teacher_error": 0.5}
    names = {recipe_of(MODEL, replace(data, **{k: v})).name for k, v in changes.items()}
    assert len(names | {recipe_of(MODEL, data).name}) == 4
    same = replace(data, train_prompts=7, seed=5, easy_fraction=0.1)
    assert recipe_of(MODEL, same) == recipe_of(MODEL, data)


@pytest.mark.parametrize(
    ("data", "shaping", "free"),
    [
        (
            WorkedSumsOptions(),
            {"modulus": 11, "bare_share": 0.1, "check_share": 0.1, "teacher_error": 0.5},
            {"train_prompts": 7, "seed": 5, "easy_fraction": 0.1},
        ),
        (
            HiddenNumbersOptions(),
            {"modulus": 11, "keys": 20, "easy_belief": 0.4, "hard_belief": 0.1},
            {"train_prompts": 7, "seed": 5},
        ),
    ],
)
def test_what_shapes_a_task_names_its_folder(data: DataOptions, shaping: dict, free: dict) -> None:
    names = {recipe_of(MODEL, replace(data, **{k: v})).name for k, v in shaping.items()}
    assert len(names | {recipe_of(MODEL, data).name}) == len(shaping) + 1
    assert recipe_of(MODEL, replace(data, **free)) == recipe_of(MODEL, data)


def test_two_strategies_has_words_and_rotations_of_its_own() -> None:
    recipe = recipe_of(replace(MODEL, warmup_steps=3), TwoStrategiesOptions(teacher_error=0.0))
    model, tokenizer = make_model(recipe), make_tokenizer(recipe.vocabulary)
    assert model.config.vocab_size == len(tokenizer) == len(recipe.vocabulary)
    # The slowest of the 8 rotations of a head of 16: 100^(-7/8) radians a token.
    assert model.model.rotary_emb.inv_freq[-1].item() == pytest.approx(100 ** (-7 / 8), rel=1e-6)
    for token_BL, target_BL in _batches(tokenizer, recipe):
        for tokens, targets in zip(token_BL.tolist(), target_BL.tolist(), strict=True):
            start = sum(target == -100 for target in targets[: targets.index(1)])
            words = [recipe.vocabulary[t] for t in targets[start:] if t != -100]
            asked = [int(w) for w in (recipe.vocabulary[t] for t in tokens[:start]) if w.isdigit()]
            assert tokens[start : start + len(words)] == targets[start : start + len(words)]
            assert words[-1] == "<eos>"
            assert int(words[-2]) == sum(asked) % 13


def test_a_task_without_lessons_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="model=demo knows data=chain_sum, two_strategies, worked_sums, hidden"
    ):
        recipe_of(MODEL, JsonlOptions())
