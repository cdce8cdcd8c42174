"""Questions with verifiable answers from a file: .jsonl (one object a line) or a .json array of objects.

GSM8K's form (``question``, ``answer`` with ``#### 42``), MATH's (``problem``, ``solution`` with
``\\boxed{...}``) and plain pairs are understood without being told; ``data.question_key`` and
``data.answer_key`` name other fields. Every row must be usable: a row that is not is an error naming
its line, unless ``data.drop_unusable`` says to leave it out, which is logged.
"""

from __future__ import annotations

import datetime
import errno
import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megaent.answers.key import read_key
from megaent.data.options import DataOptions
from megaent.data.task import Task
from megaent.errors import DataError, ModelError
from megaent.model_folder.template import ChatTemplate
from megaent.model_folder.tokenizer import load_tokenizer
from megaent.options import MISSING, require
from megaent.randomness import draw_seed
from megaent.types import Prompt

log = logging.getLogger(__name__)

QUESTION_KEYS = ("question", "problem", "prompt", "input")
ANSWER_KEYS = ("answer", "final_answer", "solution", "target")


@dataclass
class JsonlOptions(DataOptions):
    """``data=jsonl``: any .jsonl, or .json array, of questions and answers."""

    name: str = "jsonl"
    path: str = MISSING
    eval_path: str = ""  # evaluation questions; "" holds out `eval_fraction` of `path`
    eval_fraction: float = 0.05
    question_key: str = ""  # "" finds question, problem, prompt or input
    answer_key: str = ""  # "" finds answer, solution, final_answer or target
    template: str = "chat"  # chat | plain
    instruction: str = "Reason step by step and put the final answer in \\boxed{}."
    date: str = ""  # YYYY-MM-DD that a chat template's clock shows; "" is the day on which the run begins
    timeout_s: float = 2.0  # of checking one answer
    drop_unusable: bool = False  # leave rows out that cannot be graded, instead of refusing the file

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.template in ("chat", "plain"),
            f"data.template must be chat or plain, got {self.template!r}",
        )
        require(
            not self.date or _is_date(self.date),
            f"data.date must be a day as YYYY-MM-DD, or empty for the run's first day, got {self.date!r}",
        )

    @property
    def day(self) -> datetime.date:
        return datetime.date.fromisoformat(self.date) if self.date else datetime.date.today()

    def require_files(self) -> None:
        for path in filter(None, (self.path, self.eval_path)):
            if not Path(path).is_file():
                raise DataError(
                    f"{path} cannot be read: {os.strerror(errno.ENOENT)}; "
                    "set data.path to a .jsonl or .json file"
                )


def _is_date(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One question of a file, its answer key already read."""

    place: str  # "FILE line 3", for messages
    question: str
    answer: str

    @property
    def digest(self) -> str:
        """Of the question alone, so that copies of it land on one side of a split."""
        return hashlib.sha256(self.question.encode()).hexdigest()[:16]


def load_jsonl(config: JsonlOptions, model_path: Path, *, max_prompt_tokens: int) -> Task:
    """The file's questions as prompts for the model, split into training and evaluation."""
    train, evaluation = _split(config)
    tokenizer = load_tokenizer(model_path)
    chat = ChatTemplate(tokenizer, config.day) if config.template == "chat" else None
    if chat is not None and not tokenizer.hf.chat_template:
        raise DataError(
            f"data.template=chat needs a tokenizer with a chat template, and that of {model_path} has none; "
            "set data.template=plain"
        )

    def prompts(rows: Sequence[Row]) -> tuple[Prompt, ...]:
        return tuple(prompt(row, name) for row, name in zip(rows, _names(rows), strict=True))

    def prompt(row: Row, name: str) -> Prompt:
        text = "\n".join(filter(None, [row.question, config.instruction]))
        if chat is not None:
            text = _rendered(chat, text, row)
            tokens = tokenizer.encode_rendered(text)
        else:
            text += "\n"
            tokens = tokenizer.encode(text)
        if len(tokens) > max_prompt_tokens:
            raise DataError(
                f"{row.place}: the prompt has {len(tokens)} tokens, and the model's context leaves room for "
                f"{max_prompt_tokens} beside rollout.max_new_tokens; shorten or drop the row, or lower "
                "rollout.max_new_tokens"
            )
        return Prompt(id=name, tokens=tokens, text=text, answer=row.answer)

    training, held_out = prompts(train), prompts(evaluation)
    return Task(
        train=training,
        evaluation=held_out,
        grader="math",
        grader_options={"timeout_s": config.timeout_s},
        stop_token_ids=tokenizer.end_ids,
        decode=tokenizer.decode,
        spell=tokenizer.spell,
        step_boundary="\n\n",
        date=config.day.isoformat() if chat is not None and chat.reads_clock else "",
        notes=chat.notes(training[0].text) if chat is not None and training else (),
    )


def _rendered(chat: ChatTemplate, text: str, row: Row) -> str:
    try:
        return chat.render(text)
    except ModelError as error:
        raise ModelError(f"{row.place}: {error}") from error


def _names(rows: Sequence[Row]) -> Iterator[str]:
    """An id by content: the same question in another file, place or run is the same prompt."""
    copies: Counter[str] = Counter()
    for row in rows:
        copies[row.digest] += 1
        yield f"jsonl/{row.digest}" + (f"/{copies[row.digest]}" if copies[row.digest] > 1 else "")


# ---------------------------------------------------------------- splits


def _split(config: JsonlOptions) -> tuple[list[Row], list[Row]]:
    """Training and evaluation rows; no question is in both."""
    if config.eval_path:
        train = read_rows(config, Path(config.path))
        evaluation = read_rows(config, Path(config.eval_path))
        asked = {row.digest: row for row in train}
        shared = [(asked[row.digest], row) for row in evaluation if row.digest in asked]
        if shared:
            raise DataError(
                f"evaluation questions must not be trained on, and {len(shared)} are: the first is "
                f"{shared[0][1].place} and {shared[0][0].place}; remove them from one of the files"
            )
    else:
        if not 0 <= config.eval_fraction < 1:
            raise DataError(f"data.eval_fraction must lie in [0, 1), got {config.eval_fraction}")
        rows = read_rows(config, Path(config.path))
        # By a hash of the question, so that a row's side does not depend on the other rows.
        held_out = [draw_seed("jsonl held out", r.digest) < config.eval_fraction * 2**63 for r in rows]
        train = [row for row, out in zip(rows, held_out, strict=True) if not out]
        evaluation = [row for row, out in zip(rows, held_out, strict=True) if out]
    # Shuffled, so that any number of the first ones is a fair sample of the file.
    train.sort(key=lambda row: draw_seed(config.seed, "jsonl order", row.digest))
    evaluation.sort(key=lambda row: draw_seed("jsonl order", row.digest))
    return train[: config.train_prompts or None], evaluation


# ---------------------------------------------------------------- rows


def read_rows(config: JsonlOptions, path: Path) -> list[Row]:
    """Every row of the file, in its order."""
    try:
        # utf-8-sig: some editors begin a file with a byte order mark.
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} must be UTF-8 text: {error}") from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}; set data.path to a .jsonl or .json file"
        ) from error
    objects = _array(text, path) if path.suffix == ".json" else _lines(text, path)
    rows: list[Row] = []
    errors: list[DataError] = []
    for place, fields in objects:
        try:
            rows.append(_row(fields, place, config))
        except DataError as error:
            errors.append(error)
    if errors and config.drop_unusable:
        log.warning("%s: %d unusable rows are left out, the first: %s", path, len(errors), errors[0])
    elif errors:
        # All at once, so that a file is mended in one go.
        listed = "\n  ".join(str(error) for error in errors[:5])
        raise DataError(
            (listed if len(errors) == 1 else f"{path}: {len(errors)} rows are unusable:\n  {listed}")
            + "\nmend them, or set data.drop_unusable=true to leave them out"
        )
    if not rows:
        raise DataError(f"{path} must hold at least one question, got an empty file")
    return rows


def _lines(text: str, path: Path) -> Iterator[tuple[str, object]]:
    # Not splitlines(): JSON text may hold U+2028 and its like as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{path} line {number}"
            try:
                yield place, json.loads(line, parse_float=str)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{place}: each line must be one JSON object; {error}") from error


def _array(text: str, path: Path) -> Iterator[tuple[str, object]]:
    if not text.strip():
        return
    try:
        array = json.loads(text, parse_float=str)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} must be a JSON array of objects; {error}") from error
    if not isinstance(array, list):
        raise DataError(f"{path} must be a JSON array of objects, got {type(array).__name__}")
    for number, fields in enumerate(array, start=1):
        yield f"{path} row {number}", fields


def _row(fields: object, place: str, config: JsonlOptions) -> Row:
    if not isinstance(fields, dict):
        raise DataError(f"{place}: expected a JSON object, got {type(fields).__name__}")
    question = _field(fields, config.question_key, QUESTION_KEYS, place=place, option="data.question_key")
    answer = _field(fields, config.answer_key, ANSWER_KEYS, place=place, option="data.answer_key")
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{place}: the question must be text, got {question!r:.80}")
    try:
        return Row(place=place, question=question.strip(), answer=read_key(answer))
    except ValueError as error:
        raise DataError(f"{place}: the answer cannot be graded: {error}") from error


def _field(fields: dict[str, object], key: str, usual: tuple[str, ...], *, place: str, option: str) -> object:
    wanted = (key,) if key else usual
    present = [name for name in wanted if name in fields]
    # MATH's rows may leave ``answer`` empty and say it in ``solution``.
    for name in present:
        if fields[name] not in (None, ""):
            return fields[name]
    if present:
        return fields[present[0]]
    raise DataError(
        f"{place}: expected the key {' or '.join(wanted)}, got {', '.join(fields) or 'no keys'}; name the "
        f"key by {option}"
    )
