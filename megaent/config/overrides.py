"""Overrides as people type them: what Hydra's grammar cannot read, or reads as a sweep, is taken as text."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from megaent.errors import ConfigError

_WORD = re.compile(r"(?P<key>[+~]{0,2}[\w./@-]+)=(?P<value>.*)", re.DOTALL)


def as_typed(overrides: Sequence[str], *, text_keys: Collection[str], is_sweep: bool = False) -> list[str]:
    """The overrides in Hydra's grammar.

    A value that the grammar refuses, such as ``Put it in \\boxed{}.`` or a file name with ``=``, becomes the
    quoted text that was typed. So does what would be choices, a list or a mapping where the key holds text
    (its last part is in ``text_keys``); choices stay where a sweep was asked for. Raises ConfigError for a
    word that is no override.
    """
    parser = OverridesParser.create()
    return [_as_typed(word, parser, text_keys, is_sweep) for word in overrides]


def _as_typed(word: str, parser: OverridesParser, text_keys: Collection[str], is_sweep: bool) -> str:
    match = None if word.startswith("-") else _WORD.fullmatch(word)
    if match is None:
        if word.startswith("~"):
            return word
        meant = (
            word.lstrip("-")
            if word.startswith("-") and "=" in word
            else "KEY=VALUE, for example optim.lr=1e-6"
        )
        raise ConfigError(f"{word!r} is no override; write {meant}")
    key, value = match.group("key"), match.group("value")
    if not value:
        return word
    try:
        parsed = parser.parse_override(word)
    except HydraException:
        return f"{key}={quoted(value)}"
    is_text = key.rpartition(".")[2] in text_keys
    is_choice = parsed.is_sweep_override()
    is_other = not is_sweep if is_choice else isinstance(parsed.value(), list | dict)
    return f"{key}={quoted(value)}" if is_text and is_other else word


def quoted(text: str) -> str:
    """``text`` as Hydra reads it back, whatever it holds; ``${`` is no interpolation then."""
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    return QuotedString(literal, Quote.single).with_quotes()
