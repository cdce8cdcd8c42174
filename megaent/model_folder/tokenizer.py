"""A folder's tokenizer: prompts to ids, ids to text, and the tokens with which a response ends."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from megaent.errors import ModelError
from megaent.model_folder.architecture import read_config
from megaent.model_folder.ends import declared_ends, vocab_rows
from megaent.model_folder.json_file import COPY_AGAIN, Fields
from megaent.model_folder.tokenizer_files import WHOLE, require_tokenizer_files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Tokenizer:
    """What the tasks ask of a folder's tokenizer. ``end_ids`` are ascending."""

    folder: Path
    hf: PreTrainedTokenizerBase = field(repr=False)
    end_ids: tuple[int, ...]

    def encode(self, text: str) -> tuple[int, ...]:
        """A prompt: what the tokenizer puts in front of a text stays, what closes it (eos) does not."""
        whole = list(self.hf(text).input_ids)
        inner = list(self.hf(text, add_special_tokens=False).input_ids)
        stop = self._num_before + len(inner)
        if whole[self._num_before : stop] == inner:
            return tuple(whole[:stop])
        while whole and whole[-1] in self.end_ids:
            whole.pop()
        return tuple(whole)

    def encode_rendered(self, text: str) -> tuple[int, ...]:
        """A text that a chat template made, whose special tokens it wrote itself."""
        return tuple(self.hf(text, add_special_tokens=False).input_ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """A response's text, without special tokens and without the one that ended it, of any kind."""
        kept = list(tokens)
        while kept and kept[-1] in self._ends:
            kept.pop()
        return str(self.hf.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def spell(self, tokens: Sequence[int]) -> str:
        """Every token as text, special ones too."""
        return str(
            self.hf.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )

    @cached_property
    def added_ids(self) -> frozenset[int]:
        """Of tokens beside the vocabulary proper: special ones, and marks such as ``</think>``."""
        return frozenset(self.hf.added_tokens_decoder)

    def newline_ids(self) -> tuple[int, ...]:
        """Every token whose text contains a newline."""
        return tuple(i for i in range(len(self.hf)) if "\n" in self.hf.decode([i]))

    @cached_property
    def _num_before(self) -> int:
        """Tokens that are put in front of any text."""
        whole, inner = self.hf("0").input_ids, self.hf("0", add_special_tokens=False).input_ids
        places = range(len(whole) - len(inner) + 1)
        return next((start for start in places if whole[start : start + len(inner)] == inner), 0)

    @cached_property
    def _ends(self) -> frozenset[int]:
        return frozenset(self.end_ids)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The folder's tokenizer; no download, and no code that the folder may bring. Raises ModelError."""
    config = read_config(folder)
    require_tokenizer_files(folder)
    hf = _load(folder)
    _require_rows(config, hf)
    ends = declared_ends(config) | {i for i in (hf.eos_token_id,) if isinstance(i, int)}
    if not ends:
        raise ModelError(
            f"{folder} names no end-of-text token; set eos_token_id in {folder / 'generation_config.json'}"
        )
    return Tokenizer(folder=folder, hf=hf, end_ids=tuple(sorted(ends)))


def _load(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    # tokenizer.json says all there is to say. AutoTokenizer would replace its splitting and its
    # decoding by those usual for the model's type, whatever the file says (transformers 5).
    whole = (folder / WHOLE).is_file()
    loader = PreTrainedTokenizerFast if whole else AutoTokenizer
    try:
        return loader.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except BaseException as error:
        # The tokenizers library raises a bare Exception for a format it does not know, and its panics are no
        # Exceptions at all.
        if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
            raise
        cause = " ".join(str(error).split())[:300]
        cure = (
            "it may be of a newer release than the installed tokenizers" if whole else f"make a {WHOLE} of it"
        )
        raise ModelError(
            f"{folder / WHOLE if whole else f'the tokenizer in {folder}'} cannot be loaded: {cause}; {cure}, "
            "or copy the tokenizer's files again"
        ) from error


def _require_rows(config: Fields, hf: PreTrainedTokenizerBase) -> None:
    """More ids than rows: a tokenizer of another model, or one that was extended without the model."""
    vocabulary = hf.get_vocab()
    if not vocabulary:
        raise ModelError(f"the tokenizer in {config.file.parent} holds no vocabulary; {COPY_AGAIN}")
    rows = vocab_rows(config)
    token = max(vocabulary, key=lambda text: vocabulary[text])
    if vocabulary[token] >= rows:
        raise ModelError(
            f"the tokenizer in {config.file.parent} has ids up to {vocabulary[token]} ({token!r:.40}), and "
            f"the model has rows for 0 to {rows - 1} (vocab_size); take both from one model, or resize the "
            "model's embeddings"
        )


def context_length(folder: Path) -> int:
    """The most tokens the model can see, prompt and response together."""
    return read_config(folder).whole("max_position_embeddings")


def tokenizer_digest(folder: Path) -> str:
    """Of the files that a tokenizer is read from: the same in every copy of the folder."""
    content = hashlib.sha256()
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "merges.txt"):
        if (folder / name).is_file():
            content.update(name.encode() + hashlib.sha256((folder / name).read_bytes()).digest())
    return content.hexdigest()
