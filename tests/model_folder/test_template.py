"""Chat templates: what they may read, and what becomes of those that write no prompt."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from support.byte_tokenizer import save_tokenizer as save

from megaent.errors import ModelError
from megaent.model_folder.template import ChatTemplate
from megaent.model_folder.tokenizer import load_tokenizer

DAY = datetime.date(2024, 7, 6)
TURN = "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}<|turn|>{% endfor %}"
OPEN = TURN + "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
# How Llama 3.1 and SmolLM3 read the clock.
LLAMA = (
    "{% if strftime_now is defined %}{% set d = strftime_now('%d %b %Y') %}"
    "{% else %}{% set d = '26 Jul 2024' %}{% endif %}"
)
CLOCK = LLAMA + "Today Date: {{ d }}\n" + OPEN
MACRO = "{% macro day() %}{{ strftime_now('%A') }}{% endmacro %}{{ day() }}\n" + OPEN


TURN_ENDS = {"eos_token_id": [257, 259]}  # </s> and <|turn|>


def template(
    folder: Path, text: object, *, day: datetime.date = DAY, generation: object = TURN_ENDS
) -> ChatTemplate:
    tokenizer = load_tokenizer(save(folder, generation=generation))
    tokenizer.hf.chat_template = text
    return ChatTemplate(tokenizer, day)


def test_a_prompt_is_what_transformers_renders(tmp_path: Path) -> None:
    chat = template(tmp_path, OPEN)
    for question in ("What is 1 + 1?", "a\nb", "{{ 1 }} <s>"):
        assert chat.render([("user", question)]) == f"<s>user\n{question}<|turn|><s>assistant\n"
    assert not chat.reads_clock
    assert chat.notes(chat.render([("user", "q")])) == ()


@pytest.mark.parametrize(("text", "shown"), [(CLOCK, "Today Date: 06 Jul 2024\n"), (MACRO, "Saturday\n")])
def test_the_clock_shows_the_day_that_it_was_told(tmp_path: Path, text: str, shown: str) -> None:
    chat = template(tmp_path, text)
    assert chat.render([("user", "q")]).startswith(shown)
    assert chat.reads_clock
    assert any("2024-07-06 (data.date)" in note for note in chat.notes(chat.render([("user", "q")])))
    other = template(tmp_path, text, day=DAY + datetime.timedelta(days=1))
    assert not other.render([("user", "q")]).startswith(shown)
    assert chat.render([("user", "q")]).startswith(shown)


def test_the_clock_of_others_goes_on(tmp_path: Path) -> None:
    chat = template(tmp_path, CLOCK)
    chat.render([("user", "q")])
    hf = load_tokenizer(tmp_path).hf
    hf.chat_template = CLOCK
    message = [{"role": "user", "content": "q"}]
    theirs = str(hf.apply_chat_template(message, tokenize=False))
    assert theirs.startswith(f"Today Date: {datetime.datetime.now():%d %b %Y}")


def test_a_template_that_opens_the_thinking_is_followed_and_told(tmp_path: Path) -> None:
    chat = template(tmp_path, OPEN + "<think>{{ '\n' }}")
    prompt = chat.render([("user", "q")])
    assert prompt.endswith("<s>assistant\n<think>\n")
    [note] = chat.notes(prompt)
    assert "opens '<think>" in note


@pytest.mark.parametrize(
    ("text", "generation", "told"),
    [
        (OPEN, TURN_ENDS, ""),
        (OPEN, None, "<|turn|>"),
        (OPEN.replace("<|turn|>", "</s>"), None, ""),
        (OPEN.replace("<|turn|>", "\n<|end|>"), None, "<|end|>"),
        (OPEN.replace("<|turn|>", "\n\n"), None, ""),
        ("{% if messages[1] is defined %}{{ raise_exception('one turn') }}{% endif %}" + OPEN, None, ""),
    ],
)
def test_a_turn_that_ends_where_no_response_does_is_told(
    tmp_path: Path, text: str, generation: object, told: str
) -> None:
    chat = template(tmp_path, text, generation=generation)
    notes = [note for note in chat.notes(chat.render([("user", "q")])) if "closes an answer" in note]
    assert len(notes) == bool(told)
    assert all(repr(told) in note and "generation_config.json" in note for note in notes)


def test_a_template_that_leaves_the_system_out_is_refused(tmp_path: Path) -> None:
    chat = template(tmp_path, OPEN.replace("in messages", "in messages if m.role != 'system'"))
    assert chat.render([("user", "q")]) == "<s>user\nq<|turn|><s>assistant\n"
    with pytest.raises(ModelError, match="leaves the system's turn out"):
        chat.render([("system", "Be brief."), ("user", "q")])


PARTS = "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "{{ raise_exception('a system message is required') }}",
            "TemplateError: a system message is required",
        ),
        (OPEN.replace("%}", "}", 1), "TemplateSyntaxError"),
        ("{{ messages[0].content.missing.deeper }}", "UndefinedError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ ''.__class__.__mro__ }}", "does not write the question|SecurityError|UndefinedError"),
        ("", "has no chat template|does not write the question"),
        ("<s>assistant", "does not write the question into the prompt"),
        ("{{ messages[0].content | upper }}", "does not write the question into the prompt"),
        (PARTS, "takes a message as a list of parts"),
        ("{{ messages[0].content[0]['text'] }}", "takes a message as a list of parts"),
        ({"tool_use": OPEN}, "multiple chat templates with no default"),
    ],
)
def test_a_template_that_writes_no_prompt_is_refused(tmp_path: Path, text: object, says: str) -> None:
    chat = template(tmp_path, text)
    with pytest.raises(ModelError, match=says) as refused:
        chat.render([("user", "What is 1 + 1?")])
    assert "\n" not in str(refused.value)
    assert "data.template=plain" in str(refused.value)


def test_of_several_templates_the_default_is_taken(tmp_path: Path) -> None:
    assert (
        template(tmp_path, {"tool_use": "x", "default": OPEN}).render([("user", "q")]).startswith("<s>user")
    )
