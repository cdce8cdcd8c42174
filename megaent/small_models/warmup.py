"""The demonstration's model: a 0.1 M Qwen2, warmed up on teacher traces, as a Hugging Face checkpoint.

It is made once, on one thread of one CPU process, and cached under a hash of everything that shapes it,
so that it has the same bits however the run that needs it was started.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from megaent.data.chain_sum import EOS, PAD, UNKNOWN, VOCABULARY
from megaent.data.options import DataOptions
from megaent.errors import ModelError
from megaent.lifetime import end_with_parent, tied_to_this_process
from megaent.randomness import draw_seed
from megaent.small_models.options import DemoModelOptions
from megaent.small_models.sealed_folder import is_intact, make_sealed
from megaent.small_models.warmup_recipe import RECIPES, WarmupRecipe, recipe_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

MAKING_LIMIT_S = 1200.0
CONTEXT = 256
_LR_WARMUP_STEPS = 40
_LR_FLOOR = 0.05
_REPORT_EVERY = 30


# ---------------------------------------------------------------- asked by a run


def demo_model_path(model: DemoModelOptions, data: DataOptions, *, cache_dir: Path) -> Path:
    """Where the checkpoint of this configuration is, or will be."""
    return cache_dir.absolute() / recipe_of(model, data).name


def make_demo_model(
    model: DemoModelOptions, data: DataOptions, *, cache_dir: Path, report: Callable[[str], None] = print
) -> Path:
    """The checkpoint's folder, made first where it is missing or damaged."""
    target = demo_model_path(model, data, cache_dir=cache_dir)
    recipe = recipe_of(model, data)
    make_sealed(target, lambda aside: _make_in_subprocess(recipe, aside, report))
    return target


def wait_for_demo_model(
    model: DemoModelOptions, data: DataOptions, *, cache_dir: Path, timeout_s: float
) -> Path:
    """The checkpoint's folder, once another process has made it."""
    target = demo_model_path(model, data, cache_dir=cache_dir)
    deadline = time.monotonic() + timeout_s
    while not is_intact(target):
        if time.monotonic() > deadline:
            raise ModelError(
                f"expected another process to make {target} within {timeout_s:g} s; see rank 0's messages, "
                "and check that every node sees this folder"
            )
        time.sleep(0.2)
    return target


def _make_in_subprocess(recipe: WarmupRecipe, folder: Path, report: Callable[[str], None]) -> None:
    """Thread settings and random state are the child's own, so nothing of the caller's can reach the bits."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = dict.fromkeys(["OMP_NUM_THREADS", "MKL_NUM_THREADS"], "1") | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "megaent.small_models.warmup", "--task", recipe.task]
    command += ["--recipe", json.dumps(asdict(recipe))]
    child = subprocess.Popen(
        [*command, "--folder", str(folder)],
        env={**os.environ, **tied_to_this_process(), **settings, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    limit = threading.Timer(MAKING_LIMIT_S, child.kill)
    limit.start()
    lines: list[str] = []
    try:
        for line in child.stdout or ():
            lines.append(line.rstrip("\n"))
            report(lines[-1])
        code = child.wait(timeout=60)
    finally:
        limit.cancel()
        child.kill()
        child.wait()
    if code != 0:
        detail = "\n".join(lines[-20:])
        raise ModelError(
            f"making the demonstration's model ended with code {code}; its last lines:\n{detail}"
        )


# ---------------------------------------------------------------- the checkpoint


def make_tokenizer(vocabulary: Sequence[str] = VOCABULARY) -> PreTrainedTokenizerFast:
    """Words separated by spaces, a letter and its number apart; an unknown word is ``<unk>``."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[0-9]+"), "isolated")]
    )
    # Puts a space between words; without a decoder they would be run together.
    words.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
    )


def make_model(recipe: WarmupRecipe) -> Qwen2ForCausalLM:
    """A fresh model, its weights drawn from ``recipe.seed``."""
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    end, pad = recipe.vocabulary.index(EOS), recipe.vocabulary.index(PAD)
    config = Qwen2Config(
        vocab_size=len(recipe.vocabulary),
        hidden_size=recipe.hidden_size,
        num_hidden_layers=recipe.num_layers,
        num_attention_heads=recipe.num_heads,
        num_key_value_heads=recipe.num_kv_heads,
        intermediate_size=recipe.intermediate_size,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_theta},
        tie_word_embeddings=recipe.tie_embeddings,
        # So narrow a model learns late from the usual 0.02.
        initializer_range=recipe.hidden_size**-0.5,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
        dtype="float32",
    )
    torch.manual_seed(draw_seed(recipe.seed, "weights"))
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=pad)
    return model


def warm_up(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: WarmupRecipe) -> None:
    """Supervised learning on teacher traces: cross-entropy of the trace, the prompt given."""
    import torch
    from torch.nn.functional import cross_entropy

    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.01)
    started = time.monotonic()
    for step, (token_BL, target_BL) in enumerate(_batches(tokenizer, recipe)):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * _schedule(step, recipe.steps)
        logits_BLV = model(input_ids=token_BL).logits
        loss = cross_entropy(logits_BLV[:, :-1].flatten(0, 1), target_BL[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % _REPORT_EVERY == 0 or step == recipe.steps - 1:
            seconds = time.monotonic() - started
            print(
                f"warm-up step {step + 1}/{recipe.steps} loss {loss.item():.3f} {seconds:.0f} s", flush=True
            )


def _schedule(step: int, steps: int) -> float:
    """Linear up, then linear down to a floor."""
    return min(1.0, (step + 1) / _LR_WARMUP_STEPS) * max(_LR_FLOOR, 1 - step / steps)


def _batches(tokenizer: PreTrainedTokenizerFast, recipe: WarmupRecipe) -> Iterator[tuple]:
    """Right-padded tokens [B, L] and targets, -100 wherever nothing is to be learnt."""
    import torch

    for pairs in recipe.lessons(random.Random(draw_seed(recipe.seed, "traces"))):
        prompts = tokenizer([prompt for prompt, _ in pairs]).input_ids
        traces = tokenizer([f"{trace} {EOS}" for _, trace in pairs]).input_ids
        rows = list(zip(prompts, traces, strict=True))
        tokens = _padded([p + t for p, t in rows], recipe.vocabulary.index(PAD))
        targets = _padded([[-100] * len(p) + t for p, t in rows], -100)
        yield torch.tensor(tokens), torch.tensor(targets)


def _padded(rows: Sequence[list[int]], filler: int) -> list[list[int]]:
    longest = max(map(len, rows))
    return [row + [filler] * (longest - len(row)) for row in rows]


def main() -> None:
    """The child's program: make the checkpoint in an empty folder."""
    end_with_parent()
    import torch
    from transformers.utils import logging

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--task", required=True, choices=[kind.task for kind in RECIPES])
    parser.add_argument("--recipe", required=True, help="the fields of that task's WarmupRecipe as JSON")
    parser.add_argument("--folder", required=True, type=Path)
    arguments = parser.parse_args()
    kind = next(kind for kind in RECIPES if kind.task == arguments.task)
    recipe = kind(**json.loads(arguments.recipe))
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    logging.disable_progress_bar()
    tokenizer, model = make_tokenizer(recipe.vocabulary), make_model(recipe)
    warm_up(model, tokenizer, recipe)
    model.save_pretrained(arguments.folder)
    tokenizer.save_pretrained(arguments.folder)


if __name__ == "__main__":
    main()
