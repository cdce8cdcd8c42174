"""A question as the model's chat template writes it, the date that it may show fixed.

Templates come with the folder and run in transformers' sandbox. One that does not write the question,
whatever the reason, is refused. ``strftime_now``, the only clock that a template can read, shows the date
that it is told.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from megaent.errors import ModelError
from megaent.model_folder.tokenizer import Tokenizer

_OPENED = re.compile(r"<(\w+)>\s*\Z")  # <think> at the end of a prompt, not <|im_start|>assistant

_SAID = "This one."


class ChatTemplate:
    """``date`` is what the template's clock shows, at midnight."""

    def __init__(self, tokenizer: Tokenizer, date: datetime.date) -> None:
        self._tokenizer = tokenizer
        self._now = datetime.datetime.combine(date, datetime.time())
        self.reads_clock = False

    def render(self, turns: Sequence[tuple[str, str]]) -> str:
        """The prompt of (role, text) turns, up to where the model's answer begins. Raises ModelError."""
        question = turns[-1][1]
        try:
            text = self._render(turns)
        except Exception as error:  # whatever a template raises, and jinja for one that is none
            cause = " ".join(str(error).split())[:200]
            reason = f"fails: {type(error).__name__}: {cause}"
            raise self._refused(reason, question) from error
        if not all(_holds(text, said) for role, said in turns if role == "user"):
            raise self._refused("does not write the question into the prompt", question)
        if not all(_holds(text, said) for role, said in turns if role == "system"):
            raise self._refused("leaves the system's turn out of the prompt")
        return text

    def _refused(self, reason: str, question: str = "") -> ModelError:
        if question and self._takes_parts(question):
            reason = "takes a message as a list of parts (images and text), and a question here is text"
        return ModelError(
            f"the chat template of {self._tokenizer.folder} {reason}; mend it (chat_template.jinja, or "
            "chat_template in tokenizer_config.json), or set data.template=plain"
        )

    def _takes_parts(self, question: str) -> bool:
        try:
            return _holds(self._render([("user", [{"type": "text", "text": question}])]), question)
        except Exception:
            return False

    def notes(self, prompt: str) -> tuple[str, ...]:
        """What of a rendered prompt its reader should know, in sentences."""
        opened = _OPENED.search(prompt)
        day, turn = self._now.date().isoformat(), self._unended_turn()
        found = (
            (
                opened,
                f"the chat template opens {opened and opened.group()!r} itself, so responses begin inside it",
            ),
            (
                turn,
                f"the chat template closes an answer with {turn!r}, at which responses do not end; "
                "where the model learnt to write it, add its id to eos_token_id in generation_config.json",
            ),
            (self.reads_clock, f"the chat template writes the date; this run keeps {day} (data.date)"),
        )
        return tuple(sentence for is_so, sentence in found if is_so)

    def _unended_turn(self) -> str:
        """The token that the template puts after an answer, where it ends no response; else ""."""
        try:
            text = self._render([("user", "Which?"), ("assistant", _SAID)], is_asked=False)
        except Exception:  # it writes no answers
            return ""
        after = self._tokenizer.encode_rendered(text.rpartition(_SAID)[2].lstrip())
        added = self._tokenizer.added_ids
        is_mark = bool(after) and after[0] in added and after[0] not in self._tokenizer.end_ids
        return self._tokenizer.spell(after[:1]) if is_mark else ""

    def _render(self, turns: Sequence[tuple[str, Any]], *, is_asked: bool = True) -> str:
        with self._clock():
            return str(
                self._tokenizer.hf.apply_chat_template(
                    [{"role": role, "content": content} for role, content in turns],
                    add_generation_prompt=is_asked,
                    tokenize=False,
                )
            )

    @contextmanager
    def _clock(self) -> Iterator[None]:
        """transformers compiles a template once and keeps it; for the while its clock is ours."""
        from transformers.utils.chat_template_utils import _compile_jinja_template

        hf = self._tokenizer.hf
        names = _compile_jinja_template(hf.get_chat_template()).environment.globals
        before = names["strftime_now"]
        names["strftime_now"] = self._strftime
        try:
            yield
        finally:
            names["strftime_now"] = before

    def _strftime(self, form: str) -> str:
        self.reads_clock = True
        return self._now.strftime(form)


def _holds(text: str, question: str) -> bool:
    """Spacing aside, which templates trim."""
    return "".join(question.split()) in "".join(text.split())
