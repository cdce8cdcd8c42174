"""``megaent data FILE``: what a person reads of a set of questions before training on it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from megaent.commands.audit_findings import Case, Findings
from megaent.commands.first_word import is_option
from megaent.data.files import read_source
from megaent.data.near_copies import near_copies
from megaent.data.overlap import GRAM, Shared, contaminated, copies, words_of
from megaent.data.rows import LeftOut, Row, read_rows
from megaent.durable import replace_file
from megaent.errors import ConfigError

USAGE = """usage: megaent data FILE [against=FILE,…] [model=FOLDER] [rows=N] [near=0.8]
       megaent data FILE out=CLEAN.jsonl [longest=N] [against=FILE,…] [near=0.8]

  FILE      a file, a folder, a pattern or hub:NAME:SPLIT, as data.path takes it
  against=  files to be measured on: which rows share 13 words in a row with them
  model=    a Hugging Face folder, whose tokenizer measures the lengths; without it
            they are in words
  rows=10   how many rows of a list are shown
  near=0.8  from which share of common five-word runs on a row is a near copy

  out=      a new file: the rows without copies, contaminated ones, those that
            cannot be used and those whose question is longer than longest=; without
            near copies too where near= is given

Shows forms, rows that cannot be used, kinds of keys, lengths, copies and
contaminated rows. FILE itself is never changed.
"""
_WIDTH, _BAR = 80, 40
_OPTIONS = ("against", "model", "rows", "longest", "near", "out")
_NEAR = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    path: str
    against: tuple[str, ...] = ()
    model: str = ""
    rows: int = 10
    longest: int = 0  # tokens of a question, or words; 0 takes every length
    near: float = _NEAR
    drops_near: bool = False
    out: str = ""


def data(words: Sequence[str], *, console: Console | None = None) -> int:
    if not words or "--help" in words or "-h" in words:
        print(USAGE, end="")
        return 0
    command = read_words(words)
    console = console or Console(width=_WIDTH, highlight=False)
    for line in _lines(command):
        console.print(Text(line))
    return 0


def read_words(words: Sequence[str]) -> Command:
    given = dict(word.split("=", 1) for word in words[1:] if "=" in word)
    odd = [word for word in words[1:] if word.split("=", 1)[0] not in _OPTIONS]
    if odd or is_option(words[0]):
        options = "=, ".join(_OPTIONS)
        raise ConfigError(f"data takes a file and {options}=; got {' '.join(odd or words)}")
    if "longest" in given and not given.get("out"):
        raise ConfigError("longest= has no effect without out=, the file to write")
    if given.get("out") and Path(given["out"]).exists():
        raise ConfigError(f"out={given['out']} exists; name a new file, or remove it first")
    return Command(
        path=words[0],
        against=tuple(filter(None, given.get("against", "").split(","))),
        model=given.get("model", ""),
        rows=_whole(given, "rows", "10"),
        longest=_whole(given, "longest", "0"),
        near=_share(given.get("near", str(_NEAR))),
        drops_near="near" in given,
        out=given.get("out", ""),
    )


def _whole(given: Mapping[str, str], name: str, default: str) -> int:
    text = given.get(name, default)
    if not text.isdecimal():
        raise ConfigError(f"{name} must be a whole number, got {text!r}")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ConfigError(f"near must be a number above 0 and at most 1, got {text!r}")
    return share


def _lines(command: Command) -> Iterable[str]:
    left_out = LeftOut(may_drop=True)
    rows = read_rows(command.path, left_out)
    questions = {row.place: row.question for row in rows}
    lengths = _lengths(questions, command.model)
    yield command.path
    yield f"{len(rows)} rows can be used, {len(left_out.problems)} cannot"
    yield from _counted("forms", Counter(row.form for row in rows))
    yield from _counted("keys", _kinds(rows))
    yield from _listed("rows that cannot be used", [str(e) for _, e in left_out.problems], command.rows)
    yield from _histogram(sorted(lengths.values()), "tokens" if command.model else "words")
    again = copies(questions)
    yield from _listed(
        "copies of an earlier question", [f"{_short(a)} = {_short(b)}" for a, b in again], command.rows
    )
    dropped = {place for place, _ in again}
    dropped |= {place for place, length in lengths.items() if command.longest and length > command.longest}
    near = near_copies({p: text for p, text in questions.items() if p not in dropped}, least=command.near)
    yield from _listed(
        f"near copies of an earlier question ({command.near:g} of five-word runs)",
        [f"{_short(a)} = {_short(b)}: {share:.2f}" for a, b, share in near],
        command.rows,
    )
    dropped |= {found.place for found in near if command.drops_near}
    for path in command.against:
        others = {row.place: row.question for row in read_rows(path, LeftOut(may_drop=True))}
        shared = contaminated(questions, others)
        dropped |= {found.place for found in shared}
        yield from _listed(
            f"share {GRAM} words in a row with {path}", list(map(_shown, shared)), command.rows
        )
    if command.out:
        yield from ("", _write(command, questions.keys() - dropped))


def _write(command: Command, kept: Set[str]) -> str:
    """The rows as they came, in their order; numbers with a point keep the text of the file."""
    rows = [row for place, row in read_source(command.path) if place in kept]
    text = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    replace_file(Path(command.out), text)
    return f"{len(rows)} rows are written to {command.out}"


def _kinds(rows: Sequence[Row]) -> Counter[str]:
    cases = [Case(place=r.place, key=r.answer, question="", response="", is_key=True) for r in rows]
    return Findings(source="", cases=cases).kinds()


def _shown(found: Shared) -> str:
    return f"{_short(found.place)} = {_short(found.other)}: {found.words}"


def _short(place: str) -> str:
    """``folder/FILE line 3`` without the folder."""
    file, number = place.rsplit(" ", 2)[0], place.rsplit(" ", 2)[1:]
    return " ".join([Path(file).name, *number])


def _counted(title: str, counts: Mapping[str, int]) -> Iterable[str]:
    yield ""
    yield f"{title} ({'distinct ' if title == 'keys' else ''}{sum(counts.values())})"
    for name, count in Counter(counts).most_common():
        yield f"  {count:>8}  {name}"


def _listed(title: str, lines: Sequence[str], most: int) -> Iterable[str]:
    yield ""
    yield f"{title}: {len(lines) or 'none'}"
    yield from (f"  {_printable(line)}"[:_WIDTH] for line in lines[:most])
    if len(lines) > most:
        yield f"  and {len(lines) - most} more"


def _printable(line: str) -> str:
    """Without what a terminal would obey."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in " ".join(line.split()))


def _lengths(questions: Mapping[str, str], model: str) -> dict[str, int]:
    if not model:
        return {place: len(words_of(text)) for place, text in questions.items()}
    from megaent.model_folder.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(Path(model))
    return {place: len(tokenizer.encode(text)) for place, text in questions.items()}


def _histogram(lengths: Sequence[int], unit: str) -> Iterable[str]:
    """A bar for each doubling of the length; ``lengths`` ascend."""
    bins = Counter(max(length - 1, 0).bit_length() for length in lengths)
    yield ""
    yield f"lengths of the questions in {unit}"
    if not lengths:
        return
    yield f"  shortest {lengths[0]}, half up to {lengths[(len(lengths) - 1) // 2]}, longest {lengths[-1]}"
    for bits in range(min(bins), max(bins) + 1):
        bar = "#" * -(-_BAR * bins[bits] // max(bins.values()))
        yield f"  up to {1 << bits:>6}  {bins[bits]:>8}  {bar}"
