"""What of a Hugging Face folder decides the computation, read without torch and without Megatron."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from megaent.errors import ModelError
from megaent.model_folder.experts import Experts, read_experts
from megaent.model_folder.json_file import Fields, read_fields
from megaent.model_folder.rotary import Rotary, read_rotary

VOCAB_MULTIPLE = 128  # the padded vocabulary does not depend on the layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What transformers' class of a model_type fixes, and what it takes where config.json is silent."""

    class_name: str
    qkv_bias: bool = False
    qk_norm: bool = False
    num_kv_heads: int | None = None  # None: as many as query heads
    head_dim: int | None = None  # None: hidden_size / num_attention_heads
    rope_theta: float = 10000.0
    tie_embeddings: bool = False
    window: int | None = None  # tokens, where use_sliding_window is true and sliding_window is not given
    no_rope_interval: int = 0  # every n-th layer does not turn; 0: all do


FAMILIES = {
    "qwen2": Family(class_name="Qwen2ForCausalLM", qkv_bias=True, num_kv_heads=32, window=4096),
    "qwen3": Family(class_name="Qwen3ForCausalLM", qk_norm=True, num_kv_heads=32, head_dim=128, window=4096),
    "llama": Family(class_name="LlamaForCausalLM"),
    "smollm3": Family(
        class_name="SmolLM3ForCausalLM",
        num_kv_heads=4,
        rope_theta=2e6,
        tie_embeddings=True,
        no_rope_interval=4,
    ),
    "qwen3_moe": Family(class_name="Qwen3MoeForCausalLM", qk_norm=True, num_kv_heads=4),
    "mixtral": Family(class_name="MixtralForCausalLM", num_kv_heads=8, rope_theta=1e6),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What of a Hugging Face ``config.json`` decides the computation."""

    family: str  # a key of FAMILIES
    num_layers: int
    hidden_size: int
    intermediate_size: int  # of one expert, where there are experts
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    max_positions: int
    tie_embeddings: bool
    qkv_bias: bool
    qk_norm: bool
    rotary: Rotary = field(default_factory=Rotary)
    no_rope_layers: tuple[int, ...] = ()  # layers, from 0, whose queries and keys are not turned
    experts: Experts | None = None

    @property
    def padded_vocab_size(self) -> int:
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    @property
    def identity(self) -> dict[str, object]:
        """Everything that is not as usual, as JSON gives it back; kept in checkpoints."""
        found = asdict(self) | {"rope_theta": self.rotary.theta, "no_rope_layers": list(self.no_rope_layers)}
        unusual = {
            "rotary": self.rotary.kind != "default",
            "no_rope_layers": bool(self.no_rope_layers),
            "experts": bool(self.experts),
        }
        return {name: value for name, value in found.items() if unusual.get(name, True)}


def _way_to_a_folder(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return "it is an adapter: merge it into its model first"
    if not folder.parent.exists():
        name = f"{folder.parent.name}/{folder.name}"
        return f"for the hub's {name}, run `hf download {name} --local-dir {folder.name}` first"
    return "./scripts/get_smollm2 makes one"


def read_config(folder: Path) -> Fields:
    """config.json of a folder whose model_type is supported. Raises ModelError."""
    file = folder / "config.json"
    if not file.is_file():
        raise ModelError(
            f"model.path must be a Hugging Face folder with a config.json, got {str(folder)!r}; "
            + _way_to_a_folder(folder)
        )
    config = read_fields(file)
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise ModelError(f"{file}: model_type must be one of {', '.join(FAMILIES)}, got {family!r}")
    return config


def read_architecture(folder: Path) -> Architecture:
    """The architecture of a Hugging Face folder; ModelError says what is missing or unsupported."""
    config = read_config(folder)
    name = config.get("model_type")
    family = FAMILIES[name]
    _refuse_unsupported(config, family)
    heads, layers = config.whole("num_attention_heads"), config.whole("num_hidden_layers")
    hidden, max_positions = config.whole("hidden_size"), config.whole("max_position_embeddings")
    head_dim = config.whole("head_dim", _head_dim(config, family, hidden, heads))
    num_kv_heads = config.whole("num_key_value_heads", _num_kv_heads(config, family, heads))
    if heads % num_kv_heads or head_dim % 2:
        raise ModelError(
            f"{config.file}: {heads} attention heads of size {head_dim} must divide among {num_kv_heads} "
            "key/value heads, and the size must be even; copy the folder again"
        )
    return Architecture(
        family=name,
        num_layers=layers,
        hidden_size=hidden,
        intermediate_size=_intermediate_size(config, name),
        num_heads=heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        vocab_size=config.whole("vocab_size"),
        rms_norm_eps=config.number("rms_norm_eps"),
        max_positions=max_positions,
        tie_embeddings=config.flag("tie_word_embeddings", family.tie_embeddings),
        qkv_bias=family.qkv_bias,
        qk_norm=family.qk_norm,
        rotary=read_rotary(config, default_theta=family.rope_theta, max_positions=max_positions),
        no_rope_layers=_no_rope_layers(config, family, layers),
        experts=read_experts(config, name),
    )


def _intermediate_size(config: Fields, name: str) -> int:
    return (
        config.whole("moe_intermediate_size", 768)
        if name == "qwen3_moe"
        else config.whole("intermediate_size")
    )


def _head_dim(config: Fields, family: Family, hidden: int, heads: int) -> int:
    """A class's own default counts where the key is absent; null is the quotient."""
    absent = "head_dim" not in config.values
    return family.head_dim if absent and family.head_dim else max(hidden // heads, 1)


def _num_kv_heads(config: Fields, family: Family, heads: int) -> int:
    absent = "num_key_value_heads" not in config.values
    return family.num_kv_heads if absent and family.num_kv_heads else heads


def _no_rope_layers(config: Fields, family: Family, layers: int) -> tuple[int, ...]:
    """SmolLM3: ``no_rope_layers`` has 1 for a layer that turns and 0 for one that does not."""
    if not family.no_rope_interval:
        return ()
    turns = config.get("no_rope_layers")
    if turns is None:
        interval = config.whole("no_rope_layer_interval", family.no_rope_interval)
        turns = [int((layer + 1) % interval != 0) for layer in range(layers)]
    if not isinstance(turns, list) or len(turns) < layers or any(turn not in (0, 1) for turn in turns):
        raise config.wrong("no_rope_layers", f"a list of 0 and 1 for each of the {layers} layers")
    return tuple(layer for layer in range(layers) if not turns[layer])


# ---------------------------------------------------------------- what is not computed here


def _refuse_unsupported(config: Fields, family: Family) -> None:
    _refuse_quantised(config)
    if config.get("hidden_act") not in (None, "silu"):
        raise ModelError(f"{config.file}: hidden_act must be silu, got {config.get('hidden_act')!r}")
    # Qwen2 has its biases whatever this key says.
    for key in ("mlp_bias", "attention_bias") if not family.qkv_bias else ("mlp_bias",):
        if config.flag(key, False):
            raise ModelError(
                f"{config.file}: {key}=true is not supported; take a model without these biases (Qwen2's own "
                "are)"
            )
    _refuse_windows(config, family)


def _refuse_quantised(config: Fields) -> None:
    for key in ("quantization_config", "compression_config"):
        if config.get(key):
            method = config.get(key)
            name = (
                method.get("quant_method", method.get("format", "")) if isinstance(method, dict) else method
            )
            raise ModelError(
                f"{config.file}: the weights are quantised ({key}, {name or 'of an unknown kind'}), and "
                "training needs them whole; take the model's release in bfloat16"
            )


def _refuse_windows(config: Fields, family: Family) -> None:
    """Layers that see a window only, as transformers derives them; one that no layer uses is no matter."""
    kinds, layers = config.get("layer_types"), config.whole("num_hidden_layers")
    if kinds is not None:
        if not isinstance(kinds, list) or len(kinds) != layers:
            raise config.wrong("layer_types", f"a list of {layers} names, one a layer")
        other = [kind for kind in kinds if kind != "full_attention"]
        if other:
            raise ModelError(
                f"{config.file}: layer_types must all be full_attention, got {other[0]!r}; take a model "
                "without sliding windows and the like"
            )
        return
    if not config.flag("use_sliding_window", False):
        return
    window = config.values.get("sliding_window", family.window)
    first = config.values.get("max_window_layers", 28) if family.window else 0
    if isinstance(first, bool) or not isinstance(first, int):
        raise config.wrong("max_window_layers", "a number of layers")
    if window is not None and first < layers:
        raise ModelError(
            f"{config.file}: use_sliding_window=true gives layers a sliding window of {window} tokens, which "
            "is not supported; set it to false if the model's card allows that, else take another model"
        )
