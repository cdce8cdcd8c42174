"""The answer key of a data row: what its author meant by ``#### 42``, ``\\boxed{42}`` or ``["1", "2"]``."""

from __future__ import annotations

import json
import math
import re

from megaent.answers.boxes import LONGEST_ANSWER, boxed, is_balanced, last_boxes
from megaent.answers.notation import rewrite

MOST_WORDS = 12  # of an answer key without a mark; more is an explanation

_WORD = re.compile(r"(?<!\\)\b[A-Za-z]{2,}")
_MARK = re.compile(r"(?m)^[ \t]*####[ \t]*([^\n#].*)$")
_NO_KEY = frozenset(
    {"proof", "not found", "notfound", "not available", "n/a", "na", "nan", "null",
     "see solution", "see the solution", "see above", "see explanation", "unknown", "tbd", "todo", "?",
     "-", "--", "...", "missing", "no answer", "not provided",
     "proof problem", "proven", "inf", "-inf", "qed", "q.e.d"}
)  # fmt: skip


def read_key(value: object) -> str:
    """The answer key in a data set's field.

    ``value`` is text, a number, or a list of these that are one answer together. In text the key is what the
    last boxes hold, several as a list; without a box what follows ``####`` in the last line, when that is
    nothing but an answer; then what the last line says that the answer is; else the whole text. Raises
    ValueError, saying why, for a field without a key.
    """
    text = _as_text(value)
    key = _without_dollars(_marked(text))
    if not key.strip(" .$"):
        raise ValueError("its final answer is empty")
    _refuse_no_key(key)
    if len(key) > LONGEST_ANSWER:
        raise ValueError(f"its final answer has {len(key)} characters; at most {LONGEST_ANSWER} are compared")
    if not is_balanced(key):
        raise ValueError(f"the braces of its final answer do not match: {key[:80]!r}")
    return key


def _marked(text: str) -> str:
    if last_boxes(text):
        return _all_boxes(text)
    if "####" in text:
        marked = _MARK.findall(text)
        if marked and _is_answer_alone(marked[-1]) and text.rstrip().endswith(marked[-1].rstrip()):
            return marked[-1].strip()
        if text.rstrip().endswith("####"):
            return ""
        if _is_answer_alone(after := text.rsplit("####", 1)[1]):
            return after.strip()
        raise ValueError(
            "what follows its #### is a heading or an explanation and no final answer; mark the answer "
            "by \\boxed{}, or name the field that holds it alone in data.answer_key"
        )
    key = text.strip()
    from megaent.answers.find import only_statement  # it brings mpmath, which a refusal need not wait for

    statement = only_statement(key)
    if statement is not None and statement.is_whole:
        return statement.answer
    if statement is not None or len(_WORD.findall(key)) > MOST_WORDS or _is_prose(key):
        raise ValueError(
            "it is an explanation that marks no final answer; mark it by #### or \\boxed{}, or name the "
            "field that holds the answer alone in data.answer_key"
        )
    return key


def _is_prose(key: str) -> bool:
    """Words over several lines or sentences: ``5\\n\\nBecause 2 + 3``, ``Add them. Therefore 5 apples.``"""
    parts = re.split(r"\n|(?<=[a-z]{2}[.!?])\s+(?=[A-Z])", key)
    return len(parts) > 1 and "\\begin" not in key and any(_WORD.search(part) for part in parts)


def _all_boxes(text: str) -> str:
    return boxed(text) or ""


def _is_answer_alone(text: str) -> bool:
    """One line of few words: an answer, and no heading with text below it."""
    lines = text.strip().splitlines()
    return (
        len(lines) == 1
        and len(_WORD.findall(lines[0])) <= MOST_WORDS // 2
        and not re.match(r"\d+\.\s+[A-Z]", lines[0])
    )


def _without_dollars(key: str) -> str:
    if len(key) > 2 and key[0] == key[-1] == "$" and "$" not in key[1:-1]:
        return key[1:-1].strip()
    return key


def _refuse_no_key(key: str) -> None:
    if any("\ud800" <= sign <= "\udfff" for sign in key):
        raise ValueError("its final answer holds half of a surrogate pair, which is no character")
    if _is_object(key):
        raise ValueError(f"its final answer is a JSON object, {key.strip()[:60]!r}, which is no answer")
    said = re.sub(r"\\text|[{}$]", "", rewrite(key)).strip(" .").casefold()
    if said in _NO_KEY or key.strip().casefold() in _NO_KEY:
        raise ValueError(f"its final answer is {key.strip()!r}, which is no answer to compare with")


def _is_object(key: str) -> bool:
    """The tests of a program, say."""
    try:
        return key.lstrip().startswith('{"') and isinstance(json.loads(key), dict)
    except ValueError:
        return False


def _as_text(value: object) -> str:
    """Text as it is; 27.0 as 27; several answers in a list as ``a, b``."""
    if isinstance(value, list) and value:
        return ", ".join(_as_text(item) for item in value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"it is {value!r}, which is no number")
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, dict) and value:
        raise ValueError(
            f"it is an object with {', '.join(map(str, value))}; name one by data.answer_key=….…"
        )
    if not isinstance(value, str):
        raise ValueError(f"it must be text or a number, got {value!r:.80}")
    return value
