"""What a row means, by its columns: who is asked what, and which field holds the answer.

Recognised without being told: GSM8K, MATH, DeepScaleR, DAPO-Math-17k, Skywork-OR1, ORZ, OpenR1-Math,
NuminaMath, DeepMath, Big-Math, AIME and AMC, OlympiadBench, instruction and output, lists of turns, and
multiple choice. Column names may begin with a capital. A row that fits two ways is refused, both shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megaent.answers.key import read_key
from megaent.data.choices import choices_of, chosen_letter, with_choices
from megaent.data.turns import Turn, turns_of, unfolded, with_system
from megaent.errors import DataError

QUESTIONS = ("question", "problem", "query", "instruction")
PROMPTS = ("prompt", "input", "messages", "conversations", "conversation")
ANSWERS = (
    "answer",
    "final_answer",
    "ground_truth",
    "reward_model.ground_truth",
    "expected_answer",
    "correct_answer",
    "gold",
    "target",
    "answerKey",
)
LAST_ANSWERS = ("label", "correct", "correct_option", "cop")
"""Names that say less: of slime, OpenRLHF and AQuA; read where no other column holds the answer."""
BACKGROUND = ("context", "passage", "body")
"""What a question is about, where a column of its own holds it: SVAMP, LogiQA."""
SEEN = ("image", "images", "video", "videos", "audio", "audios")
"""What a model of text cannot be shown."""
LONGEST_LABEL = 60  # characters
LABELS = ("subject", "type", "category", "topic", "domain", "level", "difficulty", "source")
WORKED = ("solution", "output", "response", "completion")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    form: str  # "problem, answer": the columns that were read
    turns: tuple[Turn, ...]  # what the model is given; one user turn for a plain question
    is_chat: bool  # the row brought its own turns
    answer: object  # what ``read_key`` is given


def read_form(row: object, *, question_key: str = "", answer_key: str = "") -> Asked:
    """The row's meaning; keys name columns, also ``a.b.0`` inside others. Raises DataError, place unsaid."""
    if isinstance(row, list) and row and all(isinstance(turn, dict) for turn in row):
        row = {"messages": row}
    if not isinstance(row, dict):
        raise DataError(f"expected a JSON object or a list of turns, got {type(row).__name__}")
    _refuse_what_is_seen(row)
    asked, question = _question(row, question_key)
    answered, answer, turns = _answer(row, answer_key, with_system(row, turns_of(asked, question)))
    options = choices_of(row)
    if options:
        answer = chosen_letter(answer, options)
        turns = (*turns[:-1], (turns[-1][0], with_choices(turns[-1][1], options)))
    form = f"{asked}, {answered}" + (", choices" if options else "")
    return Asked(form=form, turns=turns, is_chat=not isinstance(question, str), answer=answer)


# ---------------------------------------------------------------- the question


def _refuse_what_is_seen(row: Mapping[str, object]) -> None:
    for name, value in _present(row, SEEN):
        if not _holds_something(value):
            continue
        raise DataError(
            f"the row shows something ({name}={value!r:.40}) that a text model does not see; leave out the "
            "row, or the column where the question does without it"
        )


def _holds_something(value: object) -> bool:
    """A row of text may have an empty column of pictures: ``{"bytes": None, "path": None}``, ``[None]``."""
    if isinstance(value, Mapping):
        return any(map(_holds_something, value.values()))
    if isinstance(value, list):
        return any(map(_holds_something, value))
    return value not in (None, "")


def _question(row: Mapping[str, object], key: str) -> tuple[str, object]:
    """The columns that were read and what they hold."""
    if key:
        return key, unfolded(named(row, key, "data.question_key"))
    name, value = _find_question(row)
    value = unfolded(value)
    if name.lower() == "instruction" and isinstance(row.get("input"), str) and row["input"]:
        value = f"{value}\n{row['input']}"
    return _with_background(row, name, value)


def _with_background(row: Mapping[str, object], name: str, question: object) -> tuple[str, object]:
    """The text that the question is about stands before it, unless the question repeats it."""
    found = [(other, text) for other, text in _present(row, BACKGROUND) if isinstance(text, str)]
    if not found or not isinstance(question, str) or found[0][1].strip() in question:
        return name, question
    other, text = found[0]
    return f"{other}, {name}", f"{text.strip()}\n\n{question}"


def _find_question(row: Mapping[str, object]) -> tuple[str, object]:
    plain = _present(row, QUESTIONS)
    distinct = {" ".join(str(value).split()) for _, value in plain}
    if len(distinct) > 1:
        (one, first), (other, second) = plain[:2]
        raise DataError(
            f"the question is {one}={first!r:.60} or {other}={second!r:.60}; choose by data.question_key"
        )
    found = plain or _present(row, PROMPTS) or _empty(row, (*QUESTIONS, *PROMPTS))
    if not found:
        wanted = " or ".join((*QUESTIONS, *PROMPTS))
        raise DataError(
            f"expected the key {wanted}, got {', '.join(map(str, row)) or 'no keys'}; name the key by "
            "data.question_key"
        )
    return found[0]


# ---------------------------------------------------------------- the answer


def _answer(
    row: Mapping[str, object], key: str, turns: tuple[Turn, ...]
) -> tuple[str, object, tuple[Turn, ...]]:
    """The column, its value, and the turns without an answer that ended them."""
    asked = turns
    while asked and asked[-1][0] == "assistant":
        asked = asked[:-1]
    if not asked:
        raise DataError("the turns hold no user's question")
    if key:
        return key, decoded(named(row, key, "data.answer_key")), asked
    found = _present(row, ANSWERS) or _ground_truth(row) or _present(row, WORKED)
    found = found or _present(row, LAST_ANSWERS)
    if not found and len(asked) < len(turns) and turns[len(asked)][1]:
        found = [("the assistant's turn", turns[len(asked)][1])]
    if not found:
        return _no_answer(row)
    _require_one(found)
    return found[0][0], decoded(found[0][1]), asked


def _ground_truth(row: Mapping[str, object]) -> list[tuple[str, object]]:
    """ORZ: the last turn carries ``ground_truth: {value: …}`` beside its text."""
    turns = row.get("messages")
    last = turns[-1] if isinstance(turns, list) and turns else None
    if not isinstance(last, dict) or "ground_truth" not in last:
        return []
    truth = last["ground_truth"]
    return [("ground_truth.value", truth.get("value") if isinstance(truth, dict) else truth)]


def _require_one(found: Sequence[tuple[str, object]]) -> None:
    """Several columns may say one answer, and not two."""
    keys: dict[str, str] = {}
    for name, value in found:
        if name.lower() in WORKED:
            continue
        try:
            keys.setdefault("".join(read_key(decoded(value)).split()), f"{name}={value!r:.60}")
        except ValueError:
            continue
    if len(keys) > 1:
        one, other, *_ = keys.values()
        raise DataError(f"the answer is {one} or {other}; choose by data.answer_key")


def _no_answer(row: Mapping[str, object]) -> tuple[str, object, tuple[Turn, ...]]:
    names = (*ANSWERS, *WORKED, *LAST_ANSWERS)
    for name, value in _empty(row, names):
        return name, value, (("user", "?"),)  # read_key says what is wrong with it
    raise DataError(
        f"expected the key {' or '.join(names)}, got {', '.join(map(str, row)) or 'no keys'}; "
        "name the key by data.answer_key"
    )


def decoded(value: object) -> object:
    """Skywork keeps a list of answers as JSON text: ``["7"]``."""
    if isinstance(value, str) and value.lstrip().startswith('["'):
        try:
            inner = json.loads(value)
        except ValueError:
            return value
        return inner if isinstance(inner, list) and all(isinstance(each, str) for each in inner) else value
    return value


# ---------------------------------------------------------------- columns


def _present(row: Mapping[str, object], names: Sequence[str]) -> list[tuple[str, object]]:
    """The columns of these names that hold something, whatever the case of their first letter."""
    found = []
    for name in names:
        for spelt in (name, name[:1].upper() + name[1:]):
            value = _lookup(row, spelt)
            if value not in (None, "", [], {}):
                found.append((spelt, value))
    return found


def _empty(row: Mapping[str, object], names: Sequence[str]) -> list[tuple[str, object]]:
    """The first column of these names, which holds nothing."""
    known = {name.lower() for name in names}
    return [(str(name), value) for name, value in row.items() if str(name).lower() in known][:1]


def named(row: Mapping[str, object], key: str, option: str) -> object:
    value = _lookup(row, key)
    if value is None:
        raise DataError(
            f"expected the key {key}, got {', '.join(map(str, row)) or 'no keys'}; name the key by {option}"
        )
    return value


def _lookup(row: Mapping[str, object], key: str) -> object:
    """``key`` itself, or step by step: ``reward_model.ground_truth``, ``prompt.0.content``."""
    if key in row:
        return row[key]
    value: object = row
    for part in key.split("."):
        value = _object(value)
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _object(value: object) -> object:
    """An object or a list that a column holds as JSON text."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def labels_of(row: object) -> tuple[tuple[str, str], ...]:
    """What a row says of its subject and difficulty, for tables: short texts and numbers of these columns."""
    if not isinstance(row, dict):
        return ()
    found = _present(row, LABELS)
    return tuple(
        (name.lower(), str(value))
        for name, value in found
        if isinstance(value, str | int | float) and len(str(value)) <= LONGEST_LABEL
    )
