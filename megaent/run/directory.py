"""What a run leaves behind, for people and for ``resume``.

    config.yaml      the resolved configuration     command.json   overrides, environment, date of the prompts
    method.txt       the method, and in words       log.txt        what was said
    prompt.txt       the first prompt, as the model reads it
    metrics.jsonl    one line a step                tensorboard/   the same, and histograms
    responses.md     a few responses a step         checkpoints/   newest last
    tables/          steps, groups, single tokens   references/    policies a later phase refers to
    hf/              the model's small files
    summary.json, summary.md, curves.png

Only rank 0 writes here, checkpoints aside.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import yaml

from megaent.durable import explained, replace_file
from megaent.errors import ConfigError
from megaent.experience.describe import histogram_edges
from megaent.loop.trainer import StepReport
from megaent.model_folder.hf_folder import copy_small_files
from megaent.report.metrics import JsonLinesWriter, TensorBoardWriter, truncate_after
from megaent.report.tables import cut_tables
from megaent.report.trackers import Trackers
from megaent.run.command_record import COMMAND, render_command
from megaent.run.config import RunOptions
from megaent.run.responses import cut_responses
from megaent.run.step_rows import StepRows
from megaent.run.table_writer import TableWriter

log = logging.getLogger(__name__)

LOG = "log.txt"


class RunDirectory:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.responses = path / "responses.md"
        self.summary = path / "summary.json"
        self.summary_table = path / "summary.md"
        self.curves = path / "curves.png"

    def refuse_existing(self) -> None:
        """Raises ConfigError when the directory already holds a run: nothing is ever written over."""
        if (self.path / COMMAND).exists():
            raise ConfigError(
                f"run.dir={self.path} already holds a run; continue it with `megaent resume {self.path}`, or "
                "choose another run.dir"
            )

    def create(
        self,
        *,
        model: Path,
        config_yaml: str,
        overrides: Sequence[str],
        method: str,
        threads: int,
        prompt: str,
        date: str,
    ) -> None:
        """Begin a new run from the Hugging Face folder ``model``, whose small files are kept in hf/."""
        with _explained(self.path, "make room there, or choose another run.dir"):
            (self.path / "hf").mkdir(parents=True, exist_ok=True)
            self.hold()
            self.refuse_existing()
            copy_small_files(model, self.path / "hf")
            replace_file(self.path / "config.yaml", config_yaml)
            replace_file(self.path / "method.txt", method + "\n")
            replace_file(self.path / "prompt.txt", prompt)
            # Last: a directory with this file holds a whole run.
            replace_file(self.path / COMMAND, render_command(overrides, threads=threads, date=date))

    def hold(self) -> None:
        """Keep other processes off until this one ends. Raises ConfigError when one is here already.

        The lock is on log.txt, which is appended to and never replaced; the kernel drops it with the process.
        """
        self._held = (self.path / LOG).open("a", encoding="utf-8")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                log.warning("%s keeps no locks (%s): nothing stops a second process", self.path, error)
                return
            raise ConfigError(
                f"another process trains in {self.path}; end it, or resume a copy of the directory"
            ) from error

    def record(self, *, config_yaml: str, overrides: Sequence[str], threads: int, date: str) -> None:
        """How the run goes on, for the next ``resume``."""
        for name, text in (
            ("config.yaml", config_yaml),
            (COMMAND, render_command(overrides, threads=threads, date=date)),
        ):
            file = self.path / name
            if not file.is_file() or file.read_bytes() != text.encode():
                replace_file(file, text)

    def cut_after(self, step: int, *, has_responses: bool) -> list[str]:
        """Forget what was recorded of steps that will be trained again; a sentence for what is lost."""
        lost = truncate_after(self.metrics, step)
        if has_responses or self.responses.exists():
            lost += cut_responses(self.responses, step)
        return lost + cut_tables(self.path, step)


def _explained(path: Path, remedy: str) -> AbstractContextManager[None]:
    return explained(lambda cause: ConfigError(f"run.dir={path} cannot be written: {cause}; {remedy}"))


class Recorder:
    """Writes each finished step into the run directory."""

    def __init__(
        self,
        directory: RunDirectory,
        *,
        first_step: int,
        vocab_size: int,
        spell: Callable[[Sequence[int]], str],
        options: RunOptions,
    ) -> None:
        """``spell`` gives the text of token ids."""
        self._directory = directory
        board = directory.path / "tensorboard"
        with self._explained():
            self._lines = JsonLinesWriter(directory.metrics)
            self._board = TensorBoardWriter(board, first_step=first_step) if options.tensorboard else None
            config = yaml.safe_load((directory.path / "config.yaml").read_text()) if options.trackers else {}
            self._trackers = Trackers(options.trackers, directory.path, config)
            self._tables = (
                TableWriter(directory.path, most_mb=options.tables_mb) if options.tables_mb else None
            )
        self._vocab_size = vocab_size
        self._responses_kept = options.responses_kept
        self._rows = StepRows(spell=spell, vocab_size=vocab_size, num_responses=options.table_responses)

    def write(self, step: int, report: StepReport) -> None:
        with self._explained():
            self._write(step, report)

    def _write(self, step: int, report: StepReport) -> None:
        self._lines.write(step, report.metrics)
        if self._board is not None:
            self._board.write(step, report.metrics)
            self._board.write_histogram(
                step,
                "entropy",
                counts_B=report.entropy_histogram,
                edges_B1=histogram_edges(self._vocab_size),
            )
        self._trackers.write(step, report.metrics)
        if self._responses_kept:
            with self._directory.responses.open("a", encoding="utf-8") as file:
                file.write(render_responses(step, report, self._responses_kept))
        if self._tables is not None:
            self._tables.write(self._rows(step, report))

    def flush(self) -> None:
        """What a checkpoint of this moment needs to go on from is on the disk."""
        if self._tables is not None:
            with self._explained():
                self._tables.flush()

    def close(self) -> None:
        with self._explained():
            self._lines.close()
            if self._tables is not None:
                self._tables.close()
            if self._board is not None:
                self._board.close()
            self._trackers.close()

    def _explained(self) -> AbstractContextManager[None]:
        path = self._directory.path
        return _explained(path, f"make room there and continue with `megaent resume {path}`")


def render_responses(step: int, report: StepReport, count: int) -> str:
    """The first response to each of the first ``count`` prompts, as Markdown."""
    assert report.batch.entropy is not None, "a step's batch is scored"
    entropies = report.batch.entropy.split(report.batch.length.tolist())
    shown = sorted(report.groups, key=lambda group: group.index)[:count]
    lines = [f"## step {step}\n", f"The first response to {len(shown)} of {len(report.groups)} prompts\n"]
    first = 0
    for group in shown:
        response, grade, entropy = group.responses[0], group.grades[0], entropies[first]
        first += len(group.responses)
        mean = float(entropy.mean()) if entropy.numel() else 0.0
        lines += [
            f"reward {grade.reward:g} · {len(response.tokens)} tokens · {response.finish} · "
            f"entropy {mean:.3f} nats · answer {group.prompt.answer!r}"
            + (f" · {grade.note}" if grade.note else ""),
            _fenced(group.prompt.text),
            _fenced(response.text),
        ]
    return "\n".join(lines) + "\n"


def _fenced(text: str) -> str:
    """A code fence longer than any in the text, so that nothing a model writes can leave it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


class _LogFile(logging.FileHandler):
    """A log that cannot be written is told once, in one line; the run goes on."""

    _is_told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        if not self._is_told:
            self._is_told = True
            print(f"megaent: {self.baseFilename} cannot be written: {sys.exc_info()[1]}", file=sys.stderr)


def log_to(path: Path) -> None:
    """Everything logged also goes to log.txt; warnings too."""
    handler = _LogFile(path / LOG, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger("megaent").addHandler(handler)
    logging.getLogger("megaent").setLevel(logging.INFO)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").addHandler(handler)
