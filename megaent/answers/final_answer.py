"""Where the final answer of a text is, and whether two of them are plainly equal; linear in the text.

Data sets and graders read answers by the same rules, so the rules belong to neither. Nothing here
parses mathematics: what cannot be decided by looking (``1/2`` against ``0.5``) is left to the checkers
of ``megaent.reward.checker_pool``.
"""

from __future__ import annotations

import re
from fractions import Fraction

TAIL = 20_000  # characters of a response that are looked at; final answers stand at the end
LONGEST_ANSWER = 1_000  # characters; a longer one is no final answer
MOST_WORDS = 12  # of an answer key without a mark; more is an explanation

_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|[+-]?\.[0-9]+")
# In running text a minus after a digit, letter or bracket subtracts, as in "8-3".
_NUMBER_IN_TEXT = re.compile(
    r"(?:(?<![\w)\]}])-)?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?(?:/[0-9]+)?%?"
)
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_WORD = re.compile(r"(?<!\\)\b[A-Za-z]{2,}")


def find_answer(response: str) -> str | None:
    """The content of the last ``\\boxed``, else the last number; None when there is neither.

    A last box that is not closed is a response that was cut: it has no answer.
    """
    tail = response[-TAIL:]
    if _last_box(tail) is not None:
        return boxed(tail)
    numbers = _NUMBER_IN_TEXT.findall(tail)
    return numbers[-1] if numbers else None


def read_key(value: object) -> str:
    """The answer key in a data set's field: after ``####``, in the last box, or the whole field.

    Raises ValueError, saying why, for a field without one.
    """
    text = _as_text(value)
    if "####" in text:
        key = text.rsplit("####", 1)[1].strip()
    elif _last_box(text) is not None:
        key = boxed(text) or ""
    else:
        key = text.strip()
        if len(_WORD.findall(key)) > MOST_WORDS:
            raise ValueError(
                "it is an explanation that marks no final answer; mark it by #### or \\boxed{}, or name the "
                "field that holds the answer alone in data.answer_key"
            )
    if len(key) > 2 and key[0] == key[-1] == "$" and "$" not in key[1:-1]:
        key = key[1:-1].strip()
    if not key:
        raise ValueError("its final answer is empty")
    if len(key) > LONGEST_ANSWER:
        raise ValueError(f"its final answer has {len(key)} characters; at most {LONGEST_ANSWER} are compared")
    if not _is_balanced(key):
        raise ValueError(f"the braces of its final answer do not match: {key[:80]!r}")
    return key


def plainly_equal(key: str, answer: str) -> bool | None:
    """True or False where looking is enough, None where mathematics has to be parsed."""
    if "".join(key.split()) == "".join(answer.split()):
        return True
    ours, theirs = _number(key), _number(answer)
    if ours is None or theirs is None:
        return None
    if ours[0] == theirs[0]:
        return True
    # 50 % may be written as 50, which was compared above, or as 0.5.
    if ours[1] != theirs[1]:
        return ours[0] == theirs[0] / 100 if theirs[1] else ours[0] / 100 == theirs[0]
    # Two unequal integers are different; decimals may be rounded, which the checkers allow for.
    return False if ours[0].denominator == theirs[0].denominator == 1 else None


def canonical(answer: str) -> str:
    """The same text for answers that looking finds equal: ``1,000`` and ``1000.0``, ``x + 1`` and ``x+1``.

    What only mathematics can tell equal, such as ``1/2`` and ``0.5``, keeps its own form.
    """
    number = _number(answer)
    if number is None:
        return "".join(answer.split())
    value, is_percent = number
    return f"{value}{'%' if is_percent else ''}"


def boxed(text: str) -> str | None:
    """The content of the last ``\\boxed{...}`` or ``\\boxed x``; None if absent or not closed."""
    start = _last_box(text)
    if start is None or start == len(text):
        return None
    if text[start] != "{":
        return re.split(r"[\s$]", text[start:], maxsplit=1)[0] or None
    end = _closing_brace(text, start)
    return None if end is None else text[start + 1 : end].strip()


def _last_box(text: str) -> int | None:
    last = None
    for found in _BOX.finditer(text):
        last = found.end()
    return last


def _closing_brace(text: str, start: int) -> int | None:
    depth = 0
    for found in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(found.group(), 0)
        if depth == 0 and found.group() == "}":
            return found.start()
    return None


def _is_balanced(text: str) -> bool:
    return _closing_brace(f"{{{text}}}", 0) == len(text) + 1


def _number(text: str) -> tuple[Fraction, bool] | None:
    """The value of a plainly written number, and whether a percent sign follows it."""
    plain = text.strip().strip("$").replace("\\$", "").replace("\\!", "").replace("{,}", ",")
    plain = plain.replace("\u2212", "-").strip().removesuffix(".")
    is_percent = plain.endswith("%")
    plain = plain.removesuffix("%").removesuffix("\\").strip()
    if len(plain) > 100 or not _NUMBER.fullmatch(plain):
        return None
    return Fraction(plain.replace(",", "")), is_percent


def _as_text(value: object) -> str:
    """Text as it is; 27.0 as 27; several answers in a list as ``a, b``."""
    if isinstance(value, list) and value:
        return ", ".join(_as_text(item) for item in value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value)
    if not isinstance(value, str):
        raise ValueError(f"it must be text or a number, got {value!r:.80}")
    return value
