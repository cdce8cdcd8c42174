"""Questions with answer keys, read from files: every row used, or named with what is wrong with it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from megaent.answers.key import read_key
from megaent.data.files import read_source
from megaent.data.forms import labels_of, read_form
from megaent.data.turns import Turn
from megaent.errors import DataError

log = logging.getLogger(__name__)

LISTED = 20  # unusable rows that a message names


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One question of a file, its answer key already read."""

    place: str  # "FILE line 3", for messages
    form: str  # the columns it was read from
    turns: tuple[Turn, ...]  # one user turn for a plain question
    is_chat: bool  # it brought its own turns
    answer: str
    labels: tuple[tuple[str, str], ...] = ()  # subject, difficulty and their like, where columns say them
    set: str = ""  # of a mixture

    @property
    def question(self) -> str:
        return self.turns[0][1] if len(self.turns) == 1 else "\n\n".join(text for _, text in self.turns)

    @property
    def digest(self) -> str:
        """Of the question alone, so that copies of it land on one side of a split."""
        return hashlib.sha256(self.question.encode()).hexdigest()[:16]


@dataclass(slots=True)
class LeftOut:
    """Rows that cannot be used: refused together, or counted by reason where the run may do without them."""

    may_drop: bool
    problems: list[tuple[str, DataError]] = field(default_factory=list)  # reason, what to say

    def add(self, reason: str, error: DataError) -> None:
        self.problems.append((reason, error))

    def settle(self, path: str) -> None:
        """Raises DataError naming the first rows, unless they may be dropped."""
        if not self.problems or self.may_drop:
            return
        listed = "\n  ".join(str(error) for _, error in self.problems[:LISTED])
        several = f"{path}: {len(self.problems)} rows are unusable:\n  {listed}"
        raise DataError(
            (listed if len(self.problems) == 1 else several)
            + "\nmend them, or set data.drop_unusable=true to leave them out"
        )

    def words(self) -> str:
        counts = Counter(reason for reason, _ in self.problems)
        told = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
        return f"{len(self.problems)} left out ({told}; the first: {self.problems[0][1]})" if told else ""


def read_rows(
    path: str,
    left_out: LeftOut,
    *,
    question_key: str = "",
    answer_key: str = "",
    key_of: Callable[[object], str] = read_key,
) -> list[Row]:
    """Every usable row behind ``path``, in order. Raises DataError for what cannot be read at all.

    ``key_of`` reads the answer's field; what it refuses with ValueError makes the row unusable.
    """
    return list(each_row(path, left_out, question_key=question_key, answer_key=answer_key, key_of=key_of))


def each_row(
    path: str, left_out: LeftOut, *, question_key: str, answer_key: str, key_of: Callable[[object], str]
) -> Iterator[Row]:
    """The same, one at a time in memory."""
    is_empty = True
    for place, given in read_source(path):
        is_empty = False
        try:
            yield _row(place, given, question_key, answer_key, key_of)
        except _UnusableError as unusable:
            left_out.add(unusable.reason, DataError(f"{place}: {unusable}"))
    if is_empty:
        raise DataError(f"{path} must hold at least one question, got an empty file")


def read_text_key(value: object) -> str:
    """Any field as a server will see it: a text as it is, all else in JSON. Raises ValueError for none."""
    if value is None or value == "":
        raise ValueError("the field is empty")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class _UnusableError(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _row(
    place: str, given: object, question_key: str, answer_key: str, key_of: Callable[[object], str]
) -> Row:
    try:
        asked = read_form(given, question_key=question_key, answer_key=answer_key)
    except DataError as error:
        raise _UnusableError("without question or answer", str(error)) from error
    try:
        answer = key_of(asked.answer)
    except ValueError as error:
        raise _UnusableError("without an answer key", f"the answer cannot be graded: {error}") from error
    return Row(
        place=place,
        form=asked.form,
        turns=asked.turns,
        is_chat=asked.is_chat,
        answer=answer,
        labels=labels_of(given),
    )


# ---------------------------------------------------------------- the same question again


def without_conflicts(rows: Sequence[Row], *, may_conflict: bool) -> tuple[int, list[Row]]:
    """How many rows repeat an earlier question, and the rows.

    Raises DataError where a question has two keys; with ``may_conflict`` the first key of it counts.
    """
    first: dict[str, Row] = {}
    kept: list[Row] = []
    copies = 0
    for row in rows:
        known = first.setdefault(row.digest, row)
        copies += known is not row
        is_other = "".join(known.answer.split()) != "".join(row.answer.split())
        if is_other and not may_conflict:
            raise DataError(
                f"{known.place} and {row.place} ask the same and have the keys {known.answer!r:.40} and "
                f"{row.answer!r:.40}; mend one, or set data.first_key_counts=true"
            )
        if not is_other:
            kept.append(row)
    return copies, kept


def summary(path: str, rows: Sequence[Row], left_out: LeftOut, copies: int, *, used: int) -> str:
    """One line of what was read: the form, rows used and left out, and the first key."""
    forms = Counter(row.form for row in rows)
    told = [f"{path}: {' / '.join(forms)}", f"{used} rows used", left_out.words()]
    told += [f"{copies} repeat a question"] if copies else []
    told += [f"the key of the first is {rows[0].answer!r:.60}"] if rows else []
    return "; ".join(part for part in told if part)


def names(rows: Iterable[Row]) -> list[str]:
    """An id by content: the same question in another file, place or run is the same prompt."""
    copies: Counter[str] = Counter()
    found = []
    for row in rows:
        copies[row.digest] += 1
        found.append(f"jsonl/{row.digest}" + (f"/{copies[row.digest]}" if copies[row.digest] > 1 else ""))
    return found
