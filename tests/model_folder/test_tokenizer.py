"""Prompts that stay open, responses that end at every declared end, and tokenizers that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.byte_tokenizer import ROWS
from support.byte_tokenizer import save_tokenizer as save
from transformers import GenerationConfig, PreTrainedTokenizerFast

from megaent.data.step_boundary import tokens_holding
from megaent.data.task import Task
from megaent.errors import ModelError
from megaent.model_folder.tokenizer import load_tokenizer
from megaent.model_folder.tokenizer_files import require_tokenizer_files

Spoil = Callable[[Path], object]

# ---------------------------------------------------------------- prompts and responses


@pytest.mark.parametrize(
    ("post", "before", "after"),
    [
        ("$A", [], []),
        ("<s> $A", [256], []),
        ("$A </s>", [], [257]),
        ("<s> $A <|end|> </s>", [256], [258, 257]),
    ],
)
def test_what_closes_a_text_does_not_close_a_prompt(
    tmp_path: Path, post: str, before: list, after: list
) -> None:
    folder = save(tmp_path, post=post)
    tokenizer = load_tokenizer(folder)
    plain = PreTrainedTokenizerFast.from_pretrained(folder)
    for text in ("1 + 1 =", "</s>", "a</s></s>", "<s>", "", "é<|turn|>"):
        inner = plain(text, add_special_tokens=False).input_ids
        assert plain(text).input_ids == [*before, *inner, *after]
        assert tokenizer.encode(text) == (*before, *inner)
        assert tokenizer.encode_rendered(text) == tuple(inner)


@pytest.mark.parametrize(
    ("generation", "eos", "ends"),
    [
        (None, None, (257,)),
        (None, 259, (257, 259)),
        (None, [258, 259], (257, 258, 259)),
        ({"eos_token_id": 258}, 259, (257, 258, 259)),
        ({"eos_token_id": [258, 258]}, None, (257, 258)),
        ({"eos_token_id": []}, [257], (257,)),
        ({"do_sample": True}, 0, (0, 257)),
    ],
)
def test_ends_are_the_union_of_three_files(
    tmp_path: Path, generation: object, eos: object, ends: tuple
) -> None:
    folder = save(tmp_path, generation=generation, eos=eos)
    assert load_tokenizer(folder).end_ids == ends
    if generation is not None:  # what transformers stops at is among them
        theirs = GenerationConfig.from_pretrained(folder).eos_token_id or []
        assert {*(theirs if isinstance(theirs, list) else [theirs])} <= {*ends}


def test_the_end_is_no_part_of_a_text_whatever_its_kind(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(save(tmp_path, eos=[257, 258, 259]))
    for end in (257, 258, 259):
        assert tokenizer.decode([*tokenizer.encode("so 7"), end]) == "so 7"
    assert tokenizer.decode([259, *tokenizer.encode("7")]) == "<|turn|>7"
    assert tokenizer.decode(tokenizer.encode("a\n")) == "a\n"
    assert tokenizer.spell([256, 55, 259, 257]) == "<s>" + tokenizer.decode([55]) + "<|turn|></s>"


@pytest.mark.parametrize("end", ["</think>", "<|end|>", "</s>"])
def test_thinking_may_end_with_a_special_or_an_ordinary_token(tmp_path: Path, end: str) -> None:
    tokenizer = load_tokenizer(save(tmp_path))
    task = Task(
        train=(),
        evaluation=(),
        grader="math",
        stop_token_ids=tokenizer.end_ids,
        decode=tokenizer.decode,
        spell=tokenizer.spell,
    )
    [expected] = tokenizer.encode(end)
    found = tokens_holding(end, task, ROWS, "thinking_end")
    assert found.equal(torch.tensor([expected]))


# ---------------------------------------------------------------- refusals


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as refused:
        load_tokenizer(folder)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("value", ["</s>", 257.0, True, {"id": 1}, [257, "</s>"]])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_an_end_of_another_type_is_refused_by_its_file(tmp_path: Path, file: str, value: object) -> None:
    folder = save(tmp_path, generation={"eos_token_id": 257})
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(config | {"eos_token_id": value}))
    assert f"{folder / file}: eos_token_id must be a token's id or a list of them" in refusal(folder)


@pytest.mark.parametrize("value", [ROWS, -1, [257, 99999]])
def test_an_end_that_the_model_cannot_write_is_refused(tmp_path: Path, value: object) -> None:
    folder = save(tmp_path, generation={"eos_token_id": value})
    assert "and the model has tokens 0 to 263" in refusal(folder)


def test_a_tokenizer_with_more_ids_than_the_model_has_rows_is_refused(tmp_path: Path) -> None:
    assert load_tokenizer(save(tmp_path, vocab_size=261)).end_ids == (257,)
    folder = save(tmp_path, vocab_size=260)
    assert "ids up to 260 ('</think>'), and the model has rows for 0 to 259" in refusal(folder)


def remove(*names: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / name).unlink() for name in names]


def write(name: str, text: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(text)


def in_tokenizer(**change: object) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        file = folder / "tokenizer.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))

    return edit


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (remove("tokenizer.json"), "has no tokenizer"),
        (remove("tokenizer.json", "tokenizer_config.json"), "has no tokenizer"),
        (write("tokenizer.json", b'{"version": "1.0", "mod'), "tokenizer.json is not readable JSON"),
        (write("tokenizer.json", b"[]"), "tokenizer.json must hold a JSON object, got list"),
        (write("tokenizer.json", b"{}"), "tokenizer.json holds no vocabulary"),
        (write("tokenizer.json", b"\xff\xfe"), "tokenizer.json cannot be read as UTF-8"),
        (write("tokenizer.json", b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (in_tokenizer(model={"type": "Tomorrow", "vocab": {"a": 0}}), "tokenizer.json cannot be loaded"),
        (in_tokenizer(pre_tokenizer={"type": "Tomorrow"}), "tokenizer.json cannot be loaded"),
        (in_tokenizer(model={"type": "BPE", "vocab": {}, "merges": []}), "holds no vocabulary"),
        (in_tokenizer(added_tokens="none"), "tokenizer.json cannot be loaded"),
        (write("tokenizer_config.json", b'{"eos_token": '), "tokenizer_config.json is not readable JSON"),
        (write("tokenizer_config.json", b'"text"'), "tokenizer_config.json must hold a JSON object, got str"),
        (write("special_tokens_map.json", b"{"), "special_tokens_map.json is not readable JSON"),
        (write("added_tokens.json", b"[1]"), "added_tokens.json must hold a JSON object, got list"),
        (write("generation_config.json", b'{"eos'), "generation_config.json is not readable JSON"),
        (
            write("generation_config.json", b"[257]"),
            "generation_config.json must hold a JSON object, got list",
        ),
        (write("config.json", b'{"model_type": "qwen2", '), "config.json is not readable JSON"),
        (write("config.json", b"null"), "config.json must hold a JSON object, got NoneType"),
        (write("chat_template.jinja", b"\xff"), "chat_template.jinja cannot be read as UTF-8"),
        (write("chat_template.json", b"{"), "chat_template.json is not readable JSON"),
    ],
)
def test_a_malformed_file_is_refused_by_its_name(
    tmp_path: Path, spoil: Callable[[Path], object], says: str
) -> None:
    folder = save(tmp_path)
    spoil(folder)
    said = refusal(folder)
    assert says in said
    assert "copy" in said or "git lfs pull" in said


def test_a_vocabulary_with_merges_is_a_tokenizer_too(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(ModelError, match="has no tokenizer"):
        require_tokenizer_files(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    require_tokenizer_files(tmp_path)
