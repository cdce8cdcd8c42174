"""What a model reads of a question: its turns in the tokenizer's chat template, or plain."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from megaent.data.turns import Turn
from megaent.errors import DataError
from megaent.model_folder.template import ChatTemplate
from megaent.model_folder.tokenizer import Tokenizer


class PromptText:
    """``template`` is chat or plain; ``chat``, None for plain, shows ``day`` where it reads the clock.

    Raises DataError for a tokenizer without a chat template.
    """

    def __init__(self, tokenizer: Tokenizer, template: str, day: datetime.date) -> None:
        self._tokenizer = tokenizer
        self.chat = ChatTemplate(tokenizer, day) if template == "chat" else None
        if self.chat is not None and not tokenizer.hf.chat_template:
            raise DataError(
                f"data.template=chat needs a tokenizer with a chat template, and that of {tokenizer.folder} "
                "has none; set data.template=plain"
            )

    def of(self, turns: Sequence[Turn]) -> str:
        """Raises ModelError for a template that cannot write them."""
        if self.chat is not None:
            return self.chat.render(turns)
        return "\n\n".join(text for _, text in turns) + "\n"

    def tokens(self, text: str) -> tuple[int, ...]:
        """Of what ``of`` wrote."""
        encode = self._tokenizer.encode if self.chat is None else self._tokenizer.encode_rendered
        return encode(text)
