"""Models by name, with the sizes of their own config.json or paper, and any other from its folder."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from megaent.errors import ConfigError
from megaent.model_folder.architecture import read_architecture
from megaent.plan.shape import Shape

_SIZES_DIFFER = 0.07  # of the parameters: Nemotron-8B has 8.54 billion


def _qwen2_5(name: str, *sizes: int, tied: bool = False) -> Shape:
    hidden, layers, heads, kv_heads, ffn, vocab = sizes
    return Shape(
        name=name, hidden=hidden, layers=layers, heads=heads, kv_heads=kv_heads, ffn=ffn, vocab=vocab,
        head_dim=hidden // heads, qkv_bias=True, tied=tied,
    )  # fmt: skip


def _qwen3(name: str, *sizes: int, tied: bool = False, experts: int = 0) -> Shape:
    hidden, layers, heads, kv_heads, ffn = sizes
    return Shape(
        name=name, hidden=hidden, layers=layers, heads=heads, kv_heads=kv_heads, ffn=ffn, vocab=151936,
        head_dim=128, qk_norm=True, tied=tied, experts=experts, experts_per_token=8 if experts else 0,
    )  # fmt: skip


def _llama(name: str, *sizes: int, vocab: int = 128256, tied: bool = False) -> Shape:
    hidden, layers, heads, kv_heads, ffn = sizes
    return Shape(
        name=name, hidden=hidden, layers=layers, heads=heads, kv_heads=kv_heads, ffn=ffn, vocab=vocab,
        head_dim=hidden // heads, tied=tied,
    )  # fmt: skip


def _gpt(name: str, hidden: int, layers: int, heads: int, *, vocab: int = 51200) -> Shape:
    return Shape(
        name=name, hidden=hidden, layers=layers, heads=heads, kv_heads=heads, ffn=4 * hidden, vocab=vocab,
        head_dim=hidden // heads, gated=False, tied=True, biased=True, positions=2048,
    )  # fmt: skip


def _mpt(name: str, hidden: int, layers: int, heads: int) -> Shape:
    return replace(_gpt(name, hidden, layers, heads, vocab=50368), biased=False, trained_by="eager")


def _nemotron(name: str, hidden: int, layers: int, heads: int, ffn: int, *, kv_heads: int = 0) -> Shape:
    whole = _gpt(name, hidden, layers, heads, vocab=256000)
    return replace(whole, ffn=ffn, kv_heads=kv_heads or heads, tied=False, biased=False, positions=0)


def _mixtral(name: str, *sizes: int, vocab: int) -> Shape:
    return replace(_llama(name, *sizes, vocab=vocab), experts=8, experts_per_token=2)


_NAMED = (
    _qwen2_5("qwen2_5_0_5b", 896, 24, 14, 2, 4864, 151936, tied=True),
    _qwen2_5("qwen2_5_1_5b", 1536, 28, 12, 2, 8960, 151936, tied=True),
    _qwen2_5("qwen2_5_3b", 2048, 36, 16, 2, 11008, 151936, tied=True),
    _qwen2_5("qwen2_5_7b", 3584, 28, 28, 4, 18944, 152064),
    _qwen2_5("qwen2_5_14b", 5120, 48, 40, 8, 13824, 152064),
    _qwen2_5("qwen2_5_32b", 5120, 64, 40, 8, 27648, 152064),
    _qwen2_5("qwen2_5_72b", 8192, 80, 64, 8, 29568, 152064),
    _qwen3("qwen3_0_6b", 1024, 28, 16, 8, 3072, tied=True),
    _qwen3("qwen3_1_7b", 2048, 28, 16, 8, 6144, tied=True),
    _qwen3("qwen3_4b", 2560, 36, 32, 8, 9728, tied=True),
    _qwen3("qwen3_8b", 4096, 36, 32, 8, 12288),
    _qwen3("qwen3_14b", 5120, 40, 40, 8, 17408),
    _qwen3("qwen3_32b", 5120, 64, 64, 8, 25600),
    _qwen3("qwen3_30b_a3b", 2048, 48, 32, 4, 768, experts=128),
    _qwen3("qwen3_235b_a22b", 4096, 94, 64, 4, 1536, experts=128),
    _llama("smollm2_135m", 576, 30, 9, 3, 1536, vocab=49152, tied=True),
    _llama("smollm3_3b", 2048, 36, 16, 4, 11008, tied=True),
    _llama("llama2_7b", 4096, 32, 32, 32, 11008, vocab=32000),
    _llama("llama2_13b", 5120, 40, 40, 40, 13824, vocab=32000),
    _llama("llama2_70b", 8192, 80, 64, 8, 28672, vocab=32000),
    _llama("llama3_1b", 2048, 16, 32, 8, 8192, tied=True),
    _llama("llama3_3b", 3072, 28, 24, 8, 8192, tied=True),
    _llama("llama3_8b", 4096, 32, 32, 8, 14336),
    _llama("llama3_70b", 8192, 80, 64, 8, 28672),
    _llama("llama3_70b_12l", 8192, 12, 64, 8, 28672),
    _llama("llama3_405b", 16384, 126, 128, 8, 53248),
    _gpt("gpt_1_7b", 2304, 24, 24),
    _gpt("gpt_3_6b", 3072, 30, 32),
    _gpt("gpt_7_5b", 4096, 36, 32),
    _gpt("gpt_18_4b", 6144, 40, 48),
    _gpt("gpt_22b", 6144, 48, 64),
    _gpt("gpt_39_1b", 8192, 48, 64),
    _gpt("gpt_76_1b", 10240, 60, 80),
    _gpt("gpt_145_6b", 12288, 80, 96),
    _gpt("gpt_175b", 12288, 96, 96),
    _gpt("gpt_310b", 16384, 96, 128),
    _gpt("gpt_530b", 20480, 105, 128),
    _gpt("gpt_1t", 25600, 128, 160),
    _gpt("gpt3_5b", 4096, 24, 32),
    _gpt("gpt3_20b", 6144, 44, 48),
    _mpt("mpt_1b", 2048, 24, 16),
    _mpt("mpt_3b", 2560, 32, 20),
    _mpt("mpt_7b", 4096, 32, 32),
    _mpt("mpt_13b", 5120, 40, 40),
    _mpt("mpt_30b", 7168, 48, 56),
    _mpt("mpt_70b", 8192, 80, 64),
    _nemotron("nemotron_8b", 4096, 32, 32, 16384),
    _nemotron("nemotron_15b", 6144, 32, 48, 24576, kv_heads=8),
    _nemotron("nemotron_22b", 6144, 40, 48, 24576),
    _nemotron("nemotron_340b", 18432, 96, 96, 73728, kv_heads=8),
    _mixtral("mixtral_8x7b", 4096, 32, 32, 8, 14336, vocab=32000),
    _mixtral("mixtral_8x22b", 6144, 56, 48, 8, 16384, vocab=32768),
    Shape(
        name="gpt_oss_20b", hidden=2880, layers=24, heads=64, kv_heads=8, head_dim=64, ffn=2880,
        vocab=201088, qkv_bias=True, experts=32, experts_per_token=4,
    ),
)  # fmt: skip
SHAPES = {shape.name: shape for shape in _NAMED}

_OTHER_NAMES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"_(instruct|base|chat|sft|math)", ""),
    (r"^llama_?3_\d_", "llama3_"),
    (r"^llama_", "llama"),
    (r"^qwen_?(\d)", r"qwen\1"),
    (r"^gpt_?3_175b", "gpt_175b"),
)


def known_as(name: str) -> str:
    """A name as people write it, as SHAPES has it: ``Qwen2.5-32B-Instruct`` is ``qwen2_5_32b``."""
    found = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    for pattern, instead in _OTHER_NAMES:
        found = re.sub(pattern, instead, found)
    return found


def find_shape(name: str) -> Shape:
    """The shape of that name, or of that Hugging Face folder. Raises ConfigError, ModelError."""
    if (Path(name) / "config.json").is_file():
        return folder_shape(Path(name))
    known = known_as(name)
    if known not in SHAPES:
        near = difflib.get_close_matches(known, SHAPES, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else f"known are {', '.join(SHAPES)}; "
        raise ConfigError(
            f"model={name} is neither a folder with a config.json nor a known shape; {hint}"
            "or give hidden=, layers=, heads=, kv_heads=, ffn= and vocab= as well"
        )
    return SHAPES[known]


def guessed_shape(name: str, *, hidden: int, layers: int, params_b: float) -> Shape:
    """A gated model of 128-wide heads and 100,000 tokens, with that many parameters."""
    heads, vocab = max(1, hidden // 128), 100_000
    matrices = (params_b * 1e9 - 2 * vocab * hidden) / layers / hidden - 4 * hidden
    return Shape(
        name=name, hidden=hidden, layers=layers, heads=heads, kv_heads=heads, head_dim=hidden // heads,
        ffn=int(matrices / 3), vocab=vocab,
    )  # fmt: skip


def folder_shape(folder: Path) -> Shape:
    found = read_architecture(folder)
    return Shape(
        name=str(folder), hidden=found.hidden_size, layers=found.num_layers, heads=found.num_heads,
        kv_heads=found.num_kv_heads, head_dim=found.head_dim, ffn=found.intermediate_size,
        vocab=found.vocab_size, tied=found.tie_embeddings, qkv_bias=found.qkv_bias, qk_norm=found.qk_norm,
        experts=found.experts.count if found.experts else 0,
        experts_per_token=found.experts.chosen if found.experts else 0,
    )  # fmt: skip


def check_claims(shape: Shape, *, hidden: int, layers: int, params_b: float) -> None:
    """Refuses what the caller says of the model where it contradicts the shape; 0 says nothing."""
    for name, said, is_so in (("hidden", hidden, shape.hidden), ("layers", layers, shape.layers)):
        if said and said != is_so:
            raise ConfigError(f"{name}={said} contradicts {shape.name}, which has {is_so}; leave it out")
    found = shape.parameters / 1e9
    if params_b and abs(params_b / found - 1) > _SIZES_DIFFER:
        raise ConfigError(
            f"params_b={params_b} contradicts the sizes of {shape.name}, which make {found:.2f} billion; "
            "leave it out, or correct a size"
        )
