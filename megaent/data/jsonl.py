"""``data=jsonl``: questions with verifiable answers, from files of any usual format and form.

A row that cannot be used is an error that names it, unless ``data.drop_unusable`` says to leave it out; what
was read, and what was left out and why, is told at the start.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from megaent.data.files import require_source, sets_in
from megaent.data.grading import GradedOptions
from megaent.data.prompt_text import PromptText
from megaent.data.rows import LeftOut, Row, names, read_rows, summary, without_conflicts
from megaent.data.task import Task
from megaent.data.turns import Turn
from megaent.data.weights import read_weights, shares_of
from megaent.errors import DataError, ModelError
from megaent.model_folder.tokenizer import Tokenizer, load_tokenizer
from megaent.options import MISSING, require
from megaent.randomness import draw_seed
from megaent.types import Prompt

if TYPE_CHECKING:
    from megaent.data.mixture import MixedPrompts

_BOXED = "Reason step by step and put the final answer in \\boxed{}."
_INSTRUCTIONS = {"code": "Write the whole program in Python, in one block between ```python and ```."}


@dataclass
class JsonlOptions(GradedOptions):
    """``data=jsonl``: a file, a folder, a pattern of files or a name of the hub (docs/tasks.md)."""

    name: str = "jsonl"
    path: str = MISSING
    weights: str = ""  # mixes what lies in the folder `path`, by name: 3*gsm8k+math; "" asks all alike
    eval_path: str = ""  # evaluation questions; "" holds out `eval_fraction` of `path`
    eval_fraction: float = 0.05
    question_key: str = ""  # "" finds it by the column's name; also a.b.0 inside others
    answer_key: str = ""
    template: str = "chat"  # chat | plain
    instruction: str = "auto"  # added to a question; auto asks for what the verifier reads, "" for nothing
    date: str = ""  # YYYY-MM-DD that a chat template's clock shows; "" is the day on which the run begins
    drop_unusable: bool = False  # leave out rows without a key, too long, …, instead of refusing the file
    first_key_counts: bool = False  # a question that comes with two keys keeps the first

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
        require(
            not (self.weights and self.curriculum.by),
            f"data.curriculum.by={self.curriculum.by} draws from all prompts alike: data.weights has no "
            "effect then; leave one out",
        )
        read_weights(self.weights)

    @property
    def asked_for(self) -> str:
        return _INSTRUCTIONS.get(self.verifier, _BOXED) if self.instruction == "auto" else self.instruction

    @property
    def day(self) -> datetime.date:
        return datetime.date.fromisoformat(self.date) if self.date else datetime.date.today()

    def require_files(self) -> None:
        for path in filter(None, (self.path, self.eval_path)):
            require_source(path)
        if self.weights:
            sets_in(self.path)


def _is_date(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def load_jsonl(config: JsonlOptions, model_path: Path, *, max_prompt_tokens: int) -> Task:
    """The files' questions as prompts for the model, split into training and evaluation."""
    tokenizer = load_tokenizer(model_path)
    writer = Writer(config, tokenizer, max_prompt_tokens)
    train, evaluation, told = _split(config, writer)
    mixed = _mixed(config, train) if config.weights else None
    return Task(
        train=mixed or train,
        evaluation=evaluation,
        grader=config.reward,
        grader_options=config.verifier_options,
        stop_token_ids=tokenizer.end_ids,
        decode=tokenizer.decode,
        spell=tokenizer.spell,
        step_boundary="\n\n",
        date=writer.date,
        notes=(*told, *(_shares_told(mixed) if mixed else ()), *writer.notes(train)),
    )


def _mixed(config: JsonlOptions, train: Sequence[Prompt]) -> MixedPrompts:
    """Raises DataError where the weights name other sets than there are."""
    from megaent.data.mixture import MixedPrompts

    sets: dict[str, list[Prompt]] = {name: [] for name in sets_in(config.path)}
    for prompt in train:
        sets[dict(prompt.labels)["set"]].append(prompt)
    return MixedPrompts(sets, shares_of(config.weights, {name: len(found) for name, found in sets.items()}))


def _shares_told(mixed: MixedPrompts) -> tuple[str, ...]:
    return tuple(
        f"{name}: {len(prompts)} training prompts, {share:.1%} of what is asked"
        for (name, prompts), share in zip(mixed.sets.items(), mixed.shares, strict=True)
    )


# ---------------------------------------------------------------- prompts


class Writer:
    """Rows as the model reads them: by its chat template, or plain."""

    def __init__(self, config: JsonlOptions, tokenizer: Tokenizer, max_prompt_tokens: int) -> None:
        self._config, self._limit = config, max_prompt_tokens
        self._text = PromptText(tokenizer, config.template, config.day)

    @property
    def date(self) -> str:
        is_shown = self._text.chat is not None and self._text.chat.reads_clock
        return self._config.day.isoformat() if is_shown else ""

    def notes(self, prompts: Sequence[Prompt]) -> tuple[str, ...]:
        return self._text.chat.notes(prompts[0].text) if self._text.chat is not None and prompts else ()

    def prompts(self, rows: Sequence[Row], left_out: LeftOut) -> list[Prompt]:
        """Those that fit; the others are added to ``left_out``."""
        found = (self.prompt(row, name, left_out) for row, name in zip(rows, names(rows), strict=True))
        return [prompt for prompt in found if prompt is not None]

    def prompt(self, row: Row, name: str, left_out: LeftOut) -> Prompt | None:
        """None, and added to ``left_out``, where it does not fit. Raises ModelError of the template."""
        turns = row.turns if row.is_chat else self._instructed(row.turns)
        try:
            text = self._text.of(turns)
        except ModelError as error:
            raise ModelError(f"{row.place}: {error}") from error
        tokens = self._text.tokens(text)
        if len(tokens) > self._limit:
            left_out.add("too long", self._too_long(row, len(tokens)))
            return None
        labels = (*row.labels, ("set", row.set)) if row.set else row.labels
        return Prompt(id=name, tokens=tokens, text=text, answer=row.answer, labels=labels)

    def _too_long(self, row: Row, length: int) -> DataError:
        return DataError(
            f"{row.place}: the prompt has {length} tokens, and the model's context leaves room for "
            f"{self._limit} beside rollout.max_new_tokens; shorten or drop the row, or lower "
            "rollout.max_new_tokens"
        )

    def _instructed(self, turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
        """A question with the instruction; turns that a row brought say themselves what is wanted."""
        *before, (role, question) = turns
        return (*before, (role, "\n".join(filter(None, [question, self._config.asked_for]))))


# ---------------------------------------------------------------- splits


def _split(
    config: JsonlOptions, writer: Writer
) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...], tuple[str, ...]]:
    """Training and evaluation prompts, no question in both, and what to tell of their files."""
    rows, prompts, told = _read(config, writer, config.path)
    if config.eval_path:
        evaluation_rows, evaluation, also_told = _read(config, writer, config.eval_path)
        _require_apart(rows, evaluation_rows)
        train, told = prompts, (*told, *also_told)
    else:
        is_out = [held_out(_digest(prompt), config.eval_fraction) for prompt in prompts]
        train = [prompt for prompt, out in zip(prompts, is_out, strict=True) if not out]
        evaluation = [prompt for prompt, out in zip(prompts, is_out, strict=True) if out]
    # Shuffled, so that any number of the first ones is a fair sample of the file.
    train.sort(key=lambda prompt: draw_seed(config.seed, "jsonl order", _digest(prompt)))
    evaluation.sort(key=lambda prompt: draw_seed("jsonl order", _digest(prompt)))
    return tuple(train[: config.train_prompts or None]), tuple(evaluation), told


def held_out(digest: str, fraction: float) -> bool:
    """By a hash of the question, so that a row's side does not depend on the other rows."""
    if not 0 <= fraction < 1:
        raise DataError(f"data.eval_fraction must lie in [0, 1), got {fraction}")
    return draw_seed("jsonl held out", digest) < fraction * 2**63


def _digest(prompt: Prompt) -> str:
    return prompt.id.split("/")[1]


def _read(config: JsonlOptions, writer: Writer, path: str) -> tuple[list[Row], list[Prompt], tuple[str, ...]]:
    left_out = LeftOut(may_drop=config.drop_unusable)
    sets = sets_in(path) if config.weights and path == config.path else {"": path}
    read = list(chain(*(_rows_of(config, source, name, left_out) for name, source in sets.items())))
    copies, rows = without_conflicts(read, may_conflict=config.first_key_counts)
    prompts = writer.prompts(rows, left_out)
    left_out.settle(path)
    return rows, prompts, (summary(path, rows, left_out, copies, used=len(prompts)),)


def _rows_of(config: JsonlOptions, path: str, name: str, left_out: LeftOut) -> list[Row]:
    """``name`` of the set they are of, "" where sets are not told apart."""
    rows = read_rows(
        path,
        left_out,
        question_key=config.question_key,
        answer_key=config.answer_key,
        key_of=config.key_of,
    )
    return [replace(row, set=name) for row in rows] if name else rows


def _require_apart(train: Sequence[Row], evaluation: Sequence[Row]) -> None:
    asked = {row.digest: row for row in train}
    shared = [(asked[row.digest], row) for row in evaluation if row.digest in asked]
    if shared:
        raise DataError(
            f"evaluation questions must not be trained on, and {len(shared)} are: the first is "
            f"{shared[0][1].place} and {shared[0][0].place}; remove them from one of the files"
        )
