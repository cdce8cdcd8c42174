"""Whether a folder's weights are those of its config.json: all there, of their shape, and none besides."""

from __future__ import annotations

import re
from pathlib import Path

from megaent.errors import ModelError
from megaent.model_folder.architecture import Architecture, read_architecture, read_config
from megaent.model_folder.ends import declared_ends
from megaent.model_folder.experts import NAMES, Experts
from megaent.model_folder.stored import Stored, stored_tensors
from megaent.model_folder.tokenizer_files import require_tokenizer_files

_WHOLE = ("F64", "F32", "F16", "BF16")
_PACKED = re.compile(
    r"\.(qweight|qzeros|scales|g_idx|SCB|absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..+"
    r"|weight_scale(_inv)?|weight_scale_2|weight_packed|weight_shape|weight_zero_point|input_scale|weight_format)$"
)
_TAKE_WHOLE = "take the model's release in bfloat16, not quantised (its name without -FP8, -GPTQ, -AWQ, -bnb)"


def check_folder(folder: Path) -> Architecture:
    """Everything of the folder that can be looked at without torch. Raises ModelError with what to do."""
    architecture = read_architecture(folder)
    check_weights(folder, architecture)
    declared_ends(read_config(folder))
    require_tokenizer_files(folder)
    return architecture


def expected_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """The tensors of the model by name; a tied output layer is the embedding and has none."""
    hidden, inner, vocab = architecture.hidden_size, architecture.intermediate_size, architecture.vocab_size
    width = architecture.head_dim
    queries, keys = architecture.num_heads * width, architecture.num_kv_heads * width
    layer = {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "post_attention_layernorm.weight": (hidden,),
    }
    if architecture.experts is None:
        names = [f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")]
        layer |= zip(names, ((inner, hidden), (inner, hidden), (hidden, inner)), strict=True)
    else:
        layer |= _expert_shapes(architecture, architecture.experts)
    if architecture.qkv_bias:
        layer |= {f"self_attn.{name}_proj.bias": (queries if name == "q" else keys,) for name in "qkv"}
    if architecture.qk_norm:
        layer |= {f"self_attn.{name}_norm.weight": (width,) for name in "qk"}
    shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}
    for number in range(architecture.num_layers):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    if not architecture.tie_embeddings:
        shapes["lm_head.weight"] = (vocab, hidden)
    return shapes


def _expert_shapes(architecture: Architecture, experts: Experts) -> dict[str, tuple[int, ...]]:
    hidden, inner = architecture.hidden_size, architecture.intermediate_size
    names = NAMES[architecture.family]
    shapes = {names.router(): (experts.count, hidden)}
    for expert in range(experts.count):
        shapes |= zip(names.of(expert), ((inner, hidden), (inner, hidden), (hidden, inner)), strict=True)
    return shapes


def check_weights(folder: Path, architecture: Architecture | None = None) -> list[str]:
    """What a load leaves out, in words. Raises ModelError for what may be neither used nor ignored."""
    architecture = architecture or read_architecture(folder)
    stored = stored_tensors(folder)
    expected = expected_shapes(architecture)
    _refuse_packed(folder, stored)
    missing, unknown = expected.keys() - stored.keys(), stored.keys() - expected.keys()
    ignored = _ignorable(folder, stored, unknown, architecture)
    for names, verb in ((missing, "lacks"), (unknown - ignored.keys(), "has unknown")):
        if names:
            first, *others = sorted(names)
            more = f" and {len(others)} more" if others else ""
            raise ModelError(
                f"{folder} {verb} tensors: {first}{more}; weights and config.json disagree, so take both "
                "from one model"
            )
    for name, shape in expected.items():
        if stored[name].shape != shape:
            raise ModelError(
                f"{stored[name].file}: {name} has shape {list(stored[name].shape)}, config.json needs "
                f"{list(shape)}; take both from one model"
            )
    used = {tensor.file.name for tensor in stored.values()}
    others = sorted(path.name for path in folder.glob("*.safetensors") if path.name not in used)
    adapter = ["adapter_config.json"] if (folder / "adapter_config.json").is_file() else []
    if adapter or any(name.startswith("adapter_model") for name in others):
        raise ModelError(
            f"{folder} holds a model and an adapter (adapter_config.json), which some loaders would add to "
            "it; merge the adapter into the model, or remove its files"
        )
    return [f"{name}: {why}" for name, why in sorted(ignored.items())] + [
        f"{name}: no part of the model by its index" for name in others
    ]


def _refuse_packed(folder: Path, stored: dict[str, Stored]) -> None:
    for name, tensor in sorted(stored.items()):
        if _PACKED.search(name) or tensor.dtype not in _WHOLE:
            raise ModelError(
                f"{tensor.file}: {name} ({tensor.dtype}) is of a quantised or packed model, and training "
                f"needs whole weights; {_TAKE_WHOLE}"
            )
    for marker in ("quantize_config.json", "quant_config.json", "quantization_config.json"):
        if (folder / marker).is_file():
            raise ModelError(
                f"{folder / marker} says that the weights are quantised, and training needs whole ones; "
                f"{_TAKE_WHOLE}"
            )


def _ignorable(
    folder: Path, stored: dict[str, Stored], unknown: set[str], architecture: Architecture
) -> dict[str, str]:
    """Tensors that hold nothing of their own, and why."""
    ignored = {name: "follows from config.json" for name in unknown if name.endswith(".rotary_emb.inv_freq")}
    if architecture.tie_embeddings and "lm_head.weight" in unknown:
        head, embedding = stored["lm_head.weight"], stored.get("model.embed_tokens.weight")
        if embedding is None or not _are_equal(head, embedding):
            raise ModelError(
                f"{folder}: config.json ties the output layer to the embedding (tie_word_embeddings, which "
                "some models take for granted), and the files hold another lm_head.weight; set "
                "tie_word_embeddings to false in config.json to use it"
            )
        ignored["lm_head.weight"] = "a copy of the embedding"
    return ignored


def _are_equal(left: Stored, right: Stored) -> bool:
    same_kind = (left.dtype, left.shape) == (right.dtype, right.shape)
    return same_kind and all(a == b for a, b in zip(left.chunks(), right.chunks(), strict=True))
