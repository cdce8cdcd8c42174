"""``megaent convert`` both ways: bits, layouts, memory, and what it refuses."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.tiny_hf import save_tiny

from megaent.commands import convert as command
from megaent.commands.convert import convert
from megaent.errors import CheckpointError, ConfigError, MegaentError, ModelError

pytestmark = pytest.mark.full

MODELS = {
    "qwen2_tied": {"family": "qwen2", "tie": True},
    "qwen2_untied": {"family": "qwen2", "tie": False},
    "qwen3": {"family": "qwen3", "tie": False, "head_dim": 32},
    "llama": {"family": "llama", "tie": True},
    "qwen3_moe": {
        "family": "qwen3_moe",
        "tie": False,
        "head_dim": 16,
        "num_experts": 4,
        "moe_intermediate_size": 48,
        "num_experts_per_tok": 2,
    },
    "mixtral": {"family": "mixtral", "tie": False, "num_local_experts": 4},
}
LAYOUTS = {
    "tp2": {"tp": 2},
    "tp2_sp": {"tp": 2, "sequence_parallel": True},
    "pp2": {"pp": 2},
    "pp2_vpp2": {"pp": 2, "vpp": 2},
}
IN_LAYOUTS = ("qwen2_tied", "qwen3")
TOKENIZER = '{"version": "1.0", "added": "\u00e9"}\n'


def quietly(source: Path, target: Path, **more: int) -> None:
    convert(source, target, report=lambda _: None, **more)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Everything in a folder's safetensors, each name once."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        part = load_file(file)
        assert not part.keys() & found.keys()
        found |= part
    return found


def differing(found: dict[str, torch.Tensor], truth: dict[str, torch.Tensor]) -> list[str]:
    """Names that are not the same to the bit."""
    names = sorted(found.keys() | truth.keys())
    return [
        name for name in names if name not in found or name not in truth or not same(found[name], truth[name])
    ]


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("convert")


@pytest.fixture(scope="module")
def hf(root: Path) -> dict[str, Path]:
    """Tiny models of an odd vocabulary, with files that a tokenizer would have."""
    folders = {
        name: save_tiny(root / name, vocab_size=97, **options)  # type: ignore[arg-type]
        for name, options in MODELS.items()
    }
    for folder in folders.values():
        (folder / "tokenizer.json").write_text(TOKENIZER, encoding="utf-8")
    return folders


@pytest.fixture(scope="module")
def megatron(root: Path, hf: dict[str, Path]) -> dict[str, Path]:
    folders = {name: root / f"{name}-megatron" for name in hf}
    for name, folder in folders.items():
        quietly(hf[name], folder)
    return folders


# ---------------------------------------------------------------- there and back


@pytest.mark.both
@pytest.mark.parametrize("name", MODELS)
def test_there_and_back_gives_the_same_files(hf: dict, megatron: dict, tmp_path: Path, name: str) -> None:
    quietly(megatron[name], tmp_path / "back")
    given, back = files(hf[name]), files(tmp_path / "back")
    assert given.keys() == back.keys()
    assert [file for file in given if file != "model.safetensors" and given[file] != back[file]] == []
    assert differing(tensors(tmp_path / "back"), tensors(hf[name])) == []


def test_bfloat16_in_several_files_comes_back_to_the_bit(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "hf", family="qwen3", tie=False, vocab_size=97, dtype=torch.bfloat16)
    split(source, parts=5)
    quietly(source, tmp_path / "megatron")
    quietly(tmp_path / "megatron", tmp_path / "back", bytes_per_file=100_000)
    assert len(list((tmp_path / "back").glob("model-*-of-*.safetensors"))) > 3
    index = json.loads((tmp_path / "back" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == tensors(source).keys()
    assert differing(tensors(tmp_path / "back"), tensors(source)) == []


def split(folder: Path, *, parts: int) -> None:
    """Cut model.safetensors into several files with an index."""
    everything = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for number in range(parts):
        names = list(everything)[number::parts]
        file = f"model-{number + 1:05d}-of-{parts:05d}.safetensors"
        save_file({name: everything[name] for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_a_tied_model_may_carry_a_copy_of_its_embedding_and_nothing_else(hf: dict, tmp_path: Path) -> None:
    def copied(given: dict) -> dict:
        return given | {"lm_head.weight": given["model.embed_tokens.weight"].clone()}

    # transformers 5 would use this one, whatever config.json says of ties.
    other = altered(
        hf["qwen2_tied"], tmp_path / "other", lambda t: t | {"lm_head.weight": torch.ones(97, 64)}
    )
    with pytest.raises(ModelError, match="set tie_word_embeddings to false"):
        quietly(other, tmp_path / "megatron")
    source = altered(hf["qwen2_tied"], tmp_path / "hf", copied)
    quietly(source, tmp_path / "megatron")
    quietly(tmp_path / "megatron", tmp_path / "back")
    assert differing(tensors(tmp_path / "back"), tensors(hf["qwen2_tied"])) == []


def test_nan_and_negative_zero_survive(hf: dict, tmp_path: Path) -> None:
    def odd(given: dict) -> dict:
        given["model.norm.weight"][:3] = torch.tensor([float("nan"), -0.0, float("-inf")])
        return given

    source = altered(hf["llama"], tmp_path / "hf", odd)
    quietly(source, tmp_path / "megatron")
    quietly(tmp_path / "megatron", tmp_path / "back")
    assert differing(tensors(tmp_path / "back"), tensors(source)) == []


def test_config_json_names_the_type_of_the_exported_weights(megatron: dict, tmp_path: Path) -> None:
    source = shutil.copytree(megatron["qwen3"], tmp_path / "megatron")
    config = json.loads((source / "hf" / "config.json").read_text())
    assert config["dtype"] == "float32"
    (source / "hf" / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    quietly(source, tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == config


def test_progress_is_a_line_for_every_twentieth(hf: dict, tmp_path: Path) -> None:
    lines: list[str] = []
    convert(hf["llama"], tmp_path / "megatron", report=lines.append)
    percents = [int(line.split("%")[0]) for line in lines if "%" in line]
    assert len(percents) == 20
    assert percents == sorted(percents)
    assert percents[-1] == 100


# ---------------------------------------------------------------- layouts


@pytest.fixture(scope="module")
def actors(root: Path, hf: dict, megatron: dict) -> dict[tuple[str, str, str], Path]:
    """What real actors hold after loading converted weights, and when saving a checkpoint; one torchrun."""
    outs: dict[tuple[str, str, str], Path] = {}
    jobs = []
    for model in IN_LAYOUTS:
        for name, layout in LAYOUTS.items():
            for action in ("load", "save"):
                out = outs[model, name, action] = root / f"{model}-{name}-{action}.pt"
                run = root / f"run-{model}-{name}"
                common = {"hf": str(hf[model]), "layout": layout, "action": action, "out": str(out)}
                # Saved in bf16: the optimizer's fp32 copies are in the checkpoint too, and are not the model.
                dtype = "bfloat16" if action == "save" and name != "pp2" else "float32"
                jobs.append(common | {"dtype": dtype, "converted": str(megatron[model]), "run": str(run)})
                shutil.copytree(megatron[model] / "hf", run / "hf", dirs_exist_ok=True)
    (root / "jobs.json").write_text(json.dumps(jobs))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    in_process([*launcher, WORKER, "layouts", str(root / "jobs.json")])
    return outs


WORKER = str(Path(__file__).with_name("convert_worker.py"))


def in_process(arguments: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1", "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stdout


@pytest.mark.both
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", IN_LAYOUTS)
def test_converted_weights_load_under_every_layout(actors: dict, hf: dict, model: str, layout: str) -> None:
    loaded = torch.load(actors[model, layout, "load"], weights_only=True)
    assert differing(loaded, tensors(hf[model])) == []


@pytest.mark.both
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", IN_LAYOUTS)
def test_a_checkpoint_of_every_layout_becomes_what_the_actor_holds(
    actors: dict, root: Path, hf: dict, tmp_path: Path, model: str, layout: str
) -> None:
    held = torch.load(actors[model, layout, "save"], weights_only=True)
    run = root / f"run-{model}-{layout}"
    quietly(run, tmp_path / "hf")
    found = tensors(tmp_path / "hf")
    assert differing(found, held) == []
    assert differing(found, tensors(hf[model])) == sorted(found)
    # An earlier checkpoint by its name.
    quietly(run / "checkpoints" / "step-00000001", tmp_path / "earlier")
    assert differing(tensors(tmp_path / "earlier"), held) == sorted(found)


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    actors: dict, root: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(root / "run-qwen3-tp2", tmp_path / "run")
    damaged = next((run / "checkpoints" / "step-00000002" / "model").glob("*.distcp"))
    flip(damaged)
    lines: list[str] = []
    convert(run, tmp_path / "hf", report=lines.append)
    assert any("refused" in line and damaged.name in line for line in lines)
    quietly(run / "checkpoints" / "step-00000001", tmp_path / "earlier")
    assert files(tmp_path / "hf") == files(tmp_path / "earlier")
    with pytest.raises(CheckpointError, match=damaged.name):
        quietly(run / "checkpoints" / "step-00000002", tmp_path / "newest")


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_a_run_without_its_hugging_face_files_says_what_is_missing(
    actors: dict, root: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(root / "run-qwen3-tp2", tmp_path / "run")
    shutil.rmtree(run / "hf")
    refused(run, tmp_path, ModelError, r"hf.config\.json is missing")


# ---------------------------------------------------------------- memory


def test_converting_never_holds_the_model(tmp_path: Path) -> None:
    size = write_large(tmp_path / "large")
    added = json.loads(in_process([WORKER, "memory", str(tmp_path / "large"), str(tmp_path)]))
    assert size > 400e6
    assert added["there"] < size / 3, added
    assert added["back"] < size / 3, added
    # The measure sees what it should: one layer at least, and a model that is really held.
    assert min(added["there"], added["back"]) > 20e6
    assert added["everything"] > 0.9 * size, added
    assert differing(tensors(tmp_path / "back"), tensors(tmp_path / "large")) == []


def write_large(folder: Path) -> int:
    """A Llama of 18 layers and random bits in 6 files; the bytes of its weights."""
    hidden, inner, keys, layers = 1024, 2816, 512, 18
    folder.mkdir()
    config = {
        "model_type": "llama",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "vocab_size": 1000,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
    }
    shapes |= {
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
    }
    shapes |= {
        "mlp.down_proj": (hidden, inner),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    noise = torch.Generator().manual_seed(0)
    weight_map, size = {}, 0
    for number in range(6):
        names = {
            f"model.layers.{layer}.{name}.weight": shape
            for layer in range(3 * number, 3 * number + 3)
            for name, shape in shapes.items()
        }
        if number == 0:
            names |= {"model.embed_tokens.weight": (1000, hidden), "model.norm.weight": (hidden,)}
        part = {
            name: torch.randint(-(2**15), 2**15, shape, generator=noise, dtype=torch.int16).view(
                torch.bfloat16
            )
            for name, shape in names.items()
        }
        file = f"model-{number + 1:05d}-of-00006.safetensors"
        save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
        size += sum(tensor.nbytes for tensor in part.values())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return size


# ---------------------------------------------------------------- what is refused


def altered(source: Path, target: Path, change: Callable[[dict], dict]) -> Path:
    shutil.copytree(source, target)
    save_file(change(load_file(target / "model.safetensors")), target / "model.safetensors")
    return target


def refused(source: Path, folder: Path, error: type[MegaentError], message: str) -> None:
    """``convert`` raises and leaves nothing, not even the folders above the target."""
    before = sorted(folder.iterdir())
    with pytest.raises(error, match=message):
        quietly(source, folder / "made" / "target")
    assert sorted(folder.iterdir()) == before


def without(name: str) -> Callable[[dict], dict]:
    return lambda given: {key: value for key, value in given.items() if key != name}


BROKEN: dict[str, tuple[Callable[[dict], dict], str]] = {
    "missing": (
        without("model.layers.2.mlp.up_proj.weight"),
        r"lacks tensors: model\.layers\.2\.mlp\.up_proj\.weight",
    ),
    "unknown": (
        lambda t: t | {"model.layers.0.mlp.bias": torch.ones(2)},
        r"has unknown tensors: model\.layers\.0\.mlp\.bias",
    ),
    "shape": (
        lambda t: t | {"model.norm.weight": torch.ones(65)},
        r"model\.norm\.weight has shape \[65\].*needs \[64\]",
    ),
    "mixed types": (
        lambda t: t | {"model.norm.weight": torch.ones(64).bfloat16()},
        r"is torch\.float32 and .* torch\.bfloat16",
    ),
    "quantised": (lambda t: {k: v.to(torch.int8) for k, v in t.items()}, r"not quantised"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_weights_that_do_not_fit_are_refused(hf: dict, tmp_path: Path, kind: str) -> None:
    change, message = BROKEN[kind]
    source = altered(hf["qwen2_untied"], tmp_path / "hf", change)
    refused(source, tmp_path, ModelError, message)


def test_a_truncated_file_is_refused_in_the_middle_too(hf: dict, tmp_path: Path) -> None:
    source = shutil.copytree(hf["qwen2_untied"], tmp_path / "hf")
    split(source, parts=5)
    # The last layer's file: the others are converted by then.
    index = json.loads((source / "model.safetensors.index.json").read_text())["weight_map"]
    file = source / index["model.layers.3.mlp.down_proj.weight"]
    os.truncate(file, file.stat().st_size - 1000)
    refused(source, tmp_path, ModelError, f"{file.name} cannot be read")


def test_a_source_of_neither_kind_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "absent", tmp_path, ModelError, "is not a folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", tmp_path, ModelError, r"no config\.json, no checkpoints/ and no model/")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    refused(tmp_path / "run", tmp_path, CheckpointError, "has no checkpoint yet")


@pytest.mark.parametrize("damage", ["truncated", "gone", "other model", "no metadata"])
def test_a_damaged_megatron_folder_is_refused(megatron: dict, tmp_path: Path, damage: str) -> None:
    source = shutil.copytree(megatron["qwen2_untied"], tmp_path / "megatron")
    model = source / "model"
    message = "cannot be read"
    if damage == "truncated":
        os.truncate(model / "__3_0.distcp", 5000)
        message = r"__3_0\.distcp is damaged"
    elif damage == "gone":
        (model / "__3_0.distcp").unlink()
    elif damage == "other model":
        shutil.copy(megatron["qwen3"] / "hf" / "config.json", source / "hf" / "config.json")
        message = "another model|no decoder"
    else:
        (model / ".metadata").unlink()
        message = r"no \.metadata"
    refused(source, tmp_path, CheckpointError, message)


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


def test_metadata_that_would_run_code_is_not_loaded(megatron: dict, tmp_path: Path) -> None:
    source = shutil.copytree(megatron["llama"], tmp_path / "megatron")
    (source / "model" / ".metadata").write_bytes(pickle.dumps(Hostile(tmp_path / "ran")))
    refused(source, tmp_path, CheckpointError, "mkdir")


def test_a_target_that_holds_something_is_left_alone(hf: dict, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "note").write_text("mine")
    for target in (tmp_path / "taken", tmp_path / "taken" / "note"):
        with pytest.raises(ConfigError, match="is no empty folder"):
            quietly(hf["llama"], target)
    assert files(tmp_path) == {"taken/note": b"mine"}


def test_an_empty_target_and_what_a_kill_left_are_taken_over(
    hf: dict, megatron: dict, tmp_path: Path
) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / ".target.partial").mkdir()
    (tmp_path / ".target.partial" / "rest").write_text("of a killed attempt")
    quietly(hf["llama"], tmp_path / "target")
    assert files(tmp_path / "target").keys() == files(megatron["llama"]).keys()
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_an_interrupt_leaves_nothing(hf: dict, tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        if " 45 %" in line or " 46 %" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(hf["llama"], tmp_path / "target", report=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_seen_before_the_first_byte(
    hf: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    refused(hf["llama"], tmp_path, ConfigError, "has 1000 bytes free, the model needs")


def test_the_command_says_what_is_wrong_without_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "megaent", "convert", str(tmp_path), str(tmp_path / "target")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == ModelError.exit_code
    assert done.stderr.startswith("megaent: ")
    assert "Traceback" not in done.stderr
