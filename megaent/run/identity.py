"""What makes a run the one that it is: a checkpoint carries it, and what differs is named.

model    a fingerprint of config.json and the weight files that the run starts from
dtype    of the weights; the optimizer's state depends on it
data     the training prompts with their answers, whatever their order
method   its recipe, as method.txt prints it
seed, data.seed
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from megaent.data.task import PromptSets
from megaent.errors import CheckpointError
from megaent.model_folder.hf_folder import weight_files
from megaent.run.config import TrainConfig
from megaent.types import Prompt

_BLOCK = 4096  # bytes
_BLOCKS = 64  # read of each weight file, the first with the names and shapes
_SHOWN = 60  # characters of a long value


def identity_of(config: TrainConfig, folder: Path, prompts: Sequence[Prompt]) -> dict[str, str]:
    """Of the run that starts from the model in ``folder``. Raises ModelError for one without weights."""
    return {
        "model": fingerprint(folder),
        "dtype": config.model.dtype,
        "data": f"{len(prompts)} prompts, {_digest(prompts)}",
        "method": repr(config.method),
        "seed": str(config.seed),
        "data.seed": str(config.data.seed),
    }


def require_same(
    checkpoint: Path, then: Mapping[str, str], now: Mapping[str, str], *, changed: Collection[str]
) -> None:
    """Raises CheckpointError for what differs and is not ``changed`` on purpose."""
    for name in now:
        if then.get(name) != now[name] and name not in changed:
            before, here = _differing(then.get(name, "unknown"), now[name])
            raise CheckpointError(
                f"{checkpoint} is of another run: its {name} was {before}, here it is {here}; resume with "
                f"{_REMEDIES.get(name, 'the same ' + name)}, or start a new run"
            )


_REMEDIES = {
    "model": "the model.path that the run began with",
    "dtype": "the same model.dtype",
    "data": "the same questions (data.path and what else chooses them)",
    "method": "the same method, or repeat its options in the command to go on with another on purpose",
}


def fingerprint(folder: Path) -> str:
    """Of a Hugging Face folder: config.json, and of each weight file its size and 64 blocks of 4 KiB.

    A model of 64 GB has some 4 MB of them, so it is told apart from its fine-tuned kin in a second.
    """
    whole = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(set(weight_files(folder).values())):
        whole.update(f"{path.name} {path.stat().st_size}".encode())
        for block in _sampled(path):
            whole.update(block)
    return whole.hexdigest()[:16]


def _sampled(path: Path) -> Iterable[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        for number in range(_BLOCKS):
            file.seek(number * max(size - _BLOCK, 0) // (_BLOCKS - 1))
            yield file.read(_BLOCK)


def _digest(prompts: Sequence[Prompt]) -> str:
    """Of what is asked, by the ids, and its keys; how it is written (a date, a template) is not data."""
    if isinstance(prompts, PromptSets):
        return prompts.digest
    whole = hashlib.sha256()
    for prompt in sorted(prompts, key=lambda prompt: prompt.id):
        whole.update(repr((prompt.id, prompt.answer)).encode())
    return whole.hexdigest()[:16]


def _differing(one: str, other: str) -> tuple[str, str]:
    """Both from shortly before the first character that differs, when they are long."""
    same = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
    start = max(0, same - _SHOWN // 2)

    def shown(text: str) -> str:
        if len(text) <= _SHOWN:
            return text
        return ("…" if start else "") + text[start : start + _SHOWN] + "…" * (start + _SHOWN < len(text))

    return shown(one), shown(other)
