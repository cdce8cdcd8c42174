"""Where the final answer of a response stands; linear in the text.

A box says it: the last one, or several that are joined by "or" or a comma. Without a box an answer is
taken where the text states one ("the answer is", ``####``), or where the last line is nothing but an
answer. A response that was cut off, that takes its answer back or that merely ends on some number has
none.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from megaent.answers.boxes import LONGEST_ANSWER, boxed, last_boxes
from megaent.answers.compare import equal

TAIL = 20_000  # characters of a response that are looked at; final answers stand at the end

_THOUGHT_ENDS = ("</think>", "</thinking>", "</thought>", "</reasoning>")
_THOUGHT = re.compile(r"<(?:think|thinking|thought|reasoning)>")
_TAKEN_BACK = re.compile(
    r"\b(?:wait\b|hold on\b|scratch that|"
    r"(?:that|this|it|which)(?:'s|\s+is|\s+was|\s+must be|\s+cannot be|\s+can't be)\s+"
    r"(?:wrong|incorrect|not\s+(?:right|correct|the\s+answer)|false|a\s+mistake|right|impossible)"
    r"|i\s+(?:made|was)\s+(?:a\s+mistake|an\s+error|wrong)"
    r"|let\s+me\s+(?:re-?check|re-?consider|re-?compute|try\s+again|correct)"
    r"|(?:is|was)\s+(?:wrong|incorrect|not\s+(?:the|my|our|correct|right))\b|not\s+sure|on\s+second\s+thought|correction\s*:|actually\s*,)",
    re.IGNORECASE,
)
_CONFIRMED = re.compile(
    r"\b(?:that|this|it|which)(?:'s|\s+is|\s+was|\s+must be)\s+(?:right|correct)\b", re.IGNORECASE
)
_STATES = re.compile(
    r"(?:\b(?:final\s+|correct\s+|right\s+|required\s+|desired\s+)?(?:answer|ans|result|option|choice|solution)s?\b"
    r"(?P<of>[^.:\n=]{0,60}?)"
    r"(?:\s+is|\s+are|\s+must\s+be|\s+should\s+be|\s+equals"
    r"|\s+comes\s+(?:out\s+)?to|\s*[:=]|\s*\*\*\s*[:=]?|\s*:\s*\*\*)|^[ \t]*####)"
    r"(?:\s+(?:thus|therefore|indeed|simply|just|then|exactly))?[ \t]*[:=]?\s*",
    re.IGNORECASE | re.MULTILINE,
)
_DENIED = re.compile(r"\b(?:no|not|without)\s+(?:an?\s+)?$", re.IGNORECASE)
_TAGGED = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL | re.IGNORECASE)
_TAG_HOLDS_MORE = re.compile(r"\\(?:boxed|fbox)|\w[^\n]*\n\s*\S|\b(?:answer|is|or|maybe)\b", re.IGNORECASE)
_HEADING = re.compile(r"(?:^|\n)[ \t#*_]*(?:the\s+)?(?:final\s+)?answer[ \t*_]*:?[ \t*_]*\n+", re.IGNORECASE)
_HEDGED = re.compile(
    r"^\s*(?:not\b|n't\b|one\s+of\b|either\b|maybe\b|perhaps\b|possibly\b|probably\s+not\b|between\b|unknown\b|unclear\b|any\b|"
    r"\?|some\b|close\s+to\b|neither\b(?!\s*[.$]?\s*$))",
    re.IGNORECASE,
)
_ALSO = re.compile(
    r"^\s*(?:,|;)?\s*(?:or|but|maybe|unless|if\s+not|not)\b(?!\s+(?:equivalently|in\s+other\s+words))",
    re.IGNORECASE,
)
_NOT_BEFORE = re.compile(
    r"(?:\bnot|\bnever|n't|\bif|\bwhether|\bdoubt|(?:\bnot|n't)\s+(?:think|believe)(?:\s+that)?)\s+(?:the\s+|our\s+|my\s+|an?\s+)?$",
    re.IGNORECASE,
)
_SPAN = re.compile(
    r"\$\$(?P<d>.+?)\$\$|(?<!\\)\$(?P<s>[^$\n]+?)(?<!\\)\$|\\\((?P<p>.+?)\\\)|\\\[(?P<b>.+?)\\\]|\*\*(?P<m>[^*\n]+?)\*\*|`(?P<c>[^`\n]+)`",
    re.DOTALL,
)
_LONE = re.compile(
    r"^[\s>*_#-]*(?:(?:so|thus|hence|therefore|then|finally|and\s+so|we\s+(?:get|have|find)|this\s+gives|it\s+is|that\s+is|"
    r"the\s+\w+\s+is|so\s+it\s+is|giving)\b[\s,:]*)*(?P<rest>.+?)[\s*_]*$",
    re.IGNORECASE | re.DOTALL,
)
_OR = re.compile(r"[\s$.)\\\]*]*\(?\s*or\s+(?=[$\\\d(-])", re.IGNORECASE)
_IS_THE_ANSWER = re.compile(
    r"(\$[^$\n]{1,200}\$|\\\([^\n]{1,200}?\\\)|\*\*[^*\n]{1,200}\*\*|(?<![-+\d.,/%])[-+\d.,/%]{1,40})"
    r"\s+is\s+(?:the|our|my)\s+(?:final\s+|correct\s+)?answer\b",
    re.IGNORECASE,
)
_CONCLUDED = re.compile(
    r"(?:^|[.!?:]\s+)(?:so|thus|hence|therefore|finally|in conclusion)\b[\s,]*(?P<rest>(?:\$|\\\(|\*\*).+)$",
    re.IGNORECASE,
)
_NUMBER_ALONE = re.compile(r"[-+−]?\\?\$?\s*(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s*/\s*\d+)?\s*(?:\\?%)?\.?")  # noqa: RUF001


def find_answer(response: str) -> str | None:
    """The final answer as it is written; None for a response without one."""
    text = _after_thought(response[-TAIL:])
    if text is None:
        return None
    if (tagged := _last(_TAGGED, text)) and not last_boxes(text[tagged.end() :]):
        return _in_tags(tagged.group(1), text[tagged.end() :])
    return _found(text)


def _in_tags(held: str, after: str) -> str | None:
    """What ``<answer>`` and ``</answer>`` hold: the answer alone, or words that state it."""
    answer = _found(held) if _TAG_HOLDS_MORE.search(held) else held.strip()
    return None if not answer or _is_taken_back(after, answer) else answer


def _found(text: str) -> str | None:
    boxes = last_boxes(text)
    if not boxes:
        return _stated(text)
    answer = boxed(text)
    if not answer or _is_taken_back(text[boxes[-1].end :], answer):
        return None
    return answer


def _after_thought(text: str) -> str | None:
    """What follows the thinking part; None while it is not over."""
    ends = [text.rfind(mark) + len(mark) for mark in _THOUGHT_ENDS if mark in text]
    text = text[max(ends, default=0) :]
    return None if _THOUGHT.search(text) else text


def _is_taken_back(after: str, answer: str) -> bool:
    if not after.strip():
        return False
    if _TAKEN_BACK.search(_CONFIRMED.sub("", after)):
        return True
    alternative = _OR.match(after)
    if alternative is None and not _STATES.search(after):
        return False
    other = _leading(after[alternative.end() :])[0] if alternative else _stated(after)
    return other is not None and (len(other) > LONGEST_ANSWER or equal(other, answer) is False)


class Statement(NamedTuple):
    answer: str
    is_whole: bool  # nothing follows it, and nothing else is stated


def only_statement(text: str) -> Statement | None:
    """What the last line says that the answer is; None where it says nothing of an answer."""
    line = text.strip().rsplit("\n", 1)[-1]
    found = [each for each in _STATES.finditer(line) if "answer" in each.group().casefold()]
    if not found or _DENIED.search(line[: found[-1].start()]):
        return None
    after = line[found[-1].end() :]
    answer = _first_answer(after)
    if not answer:
        return None
    rest = after.rpartition(answer)[2]
    is_whole = len(found) == 1 and not rest.strip(" \t.$*)]\\") and after.count("$") % 2 == 0
    return Statement(answer, is_whole)


# ---------------------------------------------------------------- without a box


def _stated(text: str) -> str | None:
    """What the last statement of an answer says, else a last line that is an answer alone."""
    text = text.rstrip()
    found, heading = _last(_STATES, text), _last(_HEADING, text)
    if heading is not None and (found is None or heading.end() > found.end()):
        return _first_answer(text[heading.end() :])
    if found is not None:
        if _NOT_BEFORE.search(text[max(0, found.start() - 40) : found.start()]):
            return None
        return _first_answer(text[found.end() :])
    if concluded := _last(_IS_THE_ANSWER, text):
        return _first_answer(concluded.group(1))
    return _lone(text)


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return max(pattern.finditer(text), key=lambda found: found.start(), default=None)


def _first_answer(rest: str) -> str | None:
    """The answer that the text begins with; what follows may explain it and may not take it back."""
    if _HEDGED.match(rest) or _TAKEN_BACK.search(_CONFIRMED.sub("", rest)):
        return None
    answer, after = _leading(rest)
    if answer is None:
        return None
    return None if _ALSO.match(after) and _is_other(after) else answer


def _is_other(after: str) -> bool:
    """``, not A`` leaves the answer as it is; ``, or 6`` and ``but`` do not."""
    return not re.match(r"^\s*,?\s*not\b", after, re.IGNORECASE)


def _leading(rest: str) -> tuple[str | None, str]:
    """(the answer, what comes after it)."""
    rest = rest.lstrip(" \t\n*_:}")
    sentence = rest.split("\n", 1)[0]
    if span := _SPAN.match(rest):
        inner = next(group for group in span.groups() if group is not None)
        return _joined_spans(rest, span, inner)
    # Up to the end of the sentence.
    end = re.search(
        r"(?<!\d)[.!?](?=\s|$|\*)|\.(?=\s+\D|\s*$)|,\s+(?=(?!and\b|or\b)[a-z]{2,}|I\b)|\s+(?:because|since|as|by|which|so|where|from|after)\s",
        sentence,
    )
    answer = sentence[: end.start()] if end else sentence
    after = sentence[end.start() :] if end else ""
    answer = re.sub(r"\*\*|`|(?<!\\)\$", "", answer).strip(' *_"“”')
    if re.fullmatch(r"[\d.,]+!", answer):
        answer = answer[:-1]  # a sentence's end and no factorial
    return (answer if re.search(r"\w|\\", answer) else None), after


def _joined_spans(rest: str, first: re.Match[str], inner: str) -> tuple[str | None, str]:
    """``$2$ and $3$``, ``$2$ or $3$``, ``$5$ cm``."""
    parts, end = [inner.strip()], first.end()
    while joined := re.compile(r"\s*(?:,|,?\s*(?:and|or))\s*(?=\$|\\\()").match(rest, end):
        span = _SPAN.match(rest, joined.end())
        if span is None:
            break
        parts.append(next(group for group in span.groups() if group is not None).strip())
        end = span.end()
    return ", ".join(parts), rest[end:].split("\n", 1)[0]


def _lone(text: str) -> str | None:
    """The last line, when it is nothing but an answer: one formula, a bold word, a number."""
    paragraph = text[text.rstrip().rfind("\n\n") + 1 :].strip() if "\\[" in text or "$$" in text else ""
    line = paragraph if _SPAN.fullmatch(paragraph) else text.strip().rsplit("\n", 1)[-1]
    concluded = _CONCLUDED.search(line[-1_000:])
    line = concluded.group("rest") if concluded else line
    if len(line) > 1_000 or (found := _LONE.match(line)) is None:
        return None
    rest = found.group("rest").strip()
    bare = rest.rstrip(".!* ")
    for candidate in (rest, bare, line.strip()):
        if (span := _SPAN.fullmatch(candidate.rstrip(".! "))) is not None:
            return next(group for group in span.groups() if group is not None).strip()
    return rest.rstrip(".") if _NUMBER_ALONE.fullmatch(rest) else None
