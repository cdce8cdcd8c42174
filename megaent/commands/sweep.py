"""``megaent train -m``: every combination of the choices is one ordinary run in a process of its own.

Hydra's grammar says what the choices are and its launcher how many runs go on at once; which points there
are, which are done, and what becomes of one that fails is said here. A value that is refused, an error, a
crash and a kill are outcomes of one point, and end no other.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.initialize import initialize_config_dir
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode
from rich.console import Console

from megaent import config_folder
from megaent.commands.halving import judge, steps_of
from megaent.commands.search import Search
from megaent.commands.sweep_point import STOPS, PointJob, stops
from megaent.commands.sweep_words import SweepWords, point_of, read_words
from megaent.config.composition import ROOT, compose_config, expand_method_options, register
from megaent.config.fastest_dtype import require_named_dtype
from megaent.config.overrides import quoted
from megaent.durable import replace_file
from megaent.errors import ConfigError, MegaentError, RunError, Stopped
from megaent.report.sweep_record import (
    FINISHED,
    REFUSED,
    SET_ASIDE,
    SWEEP,
    Outcome,
    Point,
    SweepRecord,
    name_of,
    read_outcome,
    read_sweep,
    write_outcome,
    write_sweep,
)
from megaent.report.sweep_table import points_of, sweep_markdown, sweep_rows, sweep_table
from megaent.run.command_record import COMMAND


def sweep(words: Sequence[str]) -> None:
    """Run every point that is not finished. Raises RunError when one failed, Stopped after a signal."""
    if "RANK" in os.environ:
        raise ConfigError("a sweep starts its runs itself and is not started by torchrun")
    register()
    asked, console = read_words(words), Console(highlight=False)
    _require_same_sweep(asked)
    launcher = _launcher(asked)
    waiting = [point for point in asked.points if not _is_finished(asked.folder, point)]
    refused = _refusals(asked, waiting)
    if refused and len(refused) == len(asked.points):
        raise next(iter(refused.values()))
    runnable = [point for point in waiting if point not in refused]
    rungs = _rungs(asked, refused)
    search = _search(asked)
    with _held(asked.folder):
        _write_points(asked, refused)
        _announce(asked, runnable, refused, console)
        try:
            with _signals(asked.folder):
                if search is not None:
                    asked = _launch_trials(launcher, asked, search, console)
                elif rungs:
                    _launch_halving(launcher, asked, rungs, refused, console)
                else:
                    _launch(launcher, asked, runnable)
                signals = stops(asked.folder)
        finally:
            _conclude(asked, console)
        _raise_end(asked, signals)


# ---------------------------------------------------------------- before


def _require_same_sweep(asked: SweepWords) -> None:
    """What a directory holds is gone on with, or added to; never mixed with runs of other settings."""
    if not (asked.folder / SWEEP).exists():
        return
    before = set(read_sweep(asked.folder).common)
    if before != set(asked.common):
        changed = " ".join(sorted(before ^ set(asked.common)))
        raise ConfigError(
            f"sweep.dir={asked.folder} holds a sweep of other settings (not in both: {changed}); give "
            "the same words, with more choices if you like, or choose another sweep.dir"
        )


def _is_finished(folder: Path, point: Point) -> bool:
    path = folder / point.folder
    return read_outcome(path).state == FINISHED and (path / COMMAND).exists()


def _refusals(asked: SweepWords, points: Sequence[Point]) -> dict[Point, MegaentError]:
    """The points whose configuration is refused; a run that began before is left to ``resume``."""
    refused = {}
    for point in points:
        if not (asked.folder / point.folder / COMMAND).exists():
            try:
                config, _ = compose_config([*asked.common, *point.words], check_files=True)
                require_named_dtype(config, "a sweep, whose points are compared,")
            except MegaentError as error:
                refused[point] = error
    return refused


def _rungs(asked: SweepWords, refused: Collection[Point]) -> list[int]:
    """After which steps settings are judged; [] without ``sweep.halving``. Raises ConfigError."""
    if asked.halving is None:
        return []
    points = [point for point in asked.points if point not in refused]
    steps = {compose_config([*asked.common, *point.words])[0].steps for point in points}
    if len(steps) > 1:
        numbers = ", ".join(map(str, sorted(steps)))
        raise ConfigError(
            f"sweep.halving judges settings after the same steps, and these have {numbers}; give one steps="
        )
    return asked.halving.rungs(steps.pop())


def _search(asked: SweepWords) -> Search | None:
    """Raises ConfigError for what is wrong with the words of every trial, before the first."""
    if asked.search is None:
        return None
    compose_config(asked.common, check_files=True)
    return Search(asked.search)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The directory for this sweep alone."""
    from megaent.run.directory import RunDirectory

    try:
        folder.mkdir(parents=True, exist_ok=True)
        directory = RunDirectory(folder)
        directory.refuse_existing()
        directory.hold()
        (folder / STOPS).unlink(missing_ok=True)
        try:
            yield
        finally:
            (folder / STOPS).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"sweep.dir={folder} cannot be written: {error.strerror or error}") from error


def _write_points(asked: SweepWords, refused: dict[Point, MegaentError]) -> None:
    known = list(read_sweep(asked.folder).points) if (asked.folder / SWEEP).exists() else []
    write_sweep(asked.folder, asked.common, list(dict.fromkeys([*known, *asked.points])))
    for point, error in refused.items():
        outcome = Outcome(state=REFUSED, exit_code=error.exit_code, message=str(error))
        write_outcome(asked.folder / point.folder, outcome)


def _announce(
    asked: SweepWords, runnable: Sequence[Point], refused: dict[Point, MegaentError], console: Console
) -> None:
    resumed = sum((asked.folder / point.folder / COMMAND).exists() for point in runnable)
    finished = len(asked.points) - len(runnable) - len(refused)
    parts = {"finished before": finished, "refused": len(refused), "resumed": resumed}
    parts["started"] = len(runnable) - resumed
    if asked.search is not None:
        counts = f"{asked.search.trials} trials, each with {max(len(asked.search.seeds), 1)} seed(s)"
        console.print(f"{counts}, in {asked.folder}", soft_wrap=True, markup=False)
        return
    counts = ", ".join(f"{count} {what}" for what, count in parts.items() if count)
    console.print(f"{len(asked.points)} points in {asked.folder}: {counts}", soft_wrap=True, markup=False)


# ---------------------------------------------------------------- under way


@contextmanager
def _signals(folder: Path) -> Iterator[None]:
    """SIGINT and SIGTERM are written down, for every process that runs a point to pass on."""

    def note(number: int, frame: FrameType | None) -> None:
        handle = os.open(folder / STOPS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(handle, bytes([number]))
        os.close(handle)
        os.write(2, b"\nmegaent: runs under way are asked to stop; a second signal leaves at once\n")

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _launcher(asked: SweepWords) -> Launcher:
    """Hydra's, with the options that the words give it. Raises ConfigError where it is not installed."""
    job = PointJob(sweep=asked.folder, owner=os.getpid())
    settings = [*asked.launcher, "hydra/hydra_logging=none", f"hydra.sweep.dir={quoted(str(asked.folder))}"]
    try:
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            config = loader.load_configuration(ROOT, overrides=settings, run_mode=RunMode.MULTIRUN)
            context = HydraContext(config_loader=loader, callbacks=Callbacks(config))
            return Plugins.instance().instantiate_launcher(
                hydra_context=context, task_function=job, config=config
            )
    except HydraException as error:
        cause = " ".join(str(error).split()).split(" Config search path")[0]
        raise ConfigError(
            f"{cause}; launchers beside Hydra's own come with `pip install 'megaent[sweeps]'`"
        ) from error


def _job_words(asked: SweepWords, point: Point) -> list[str]:
    chosen = expand_method_options([*asked.common, *point.words])
    return [*chosen, f"hydra.sweep.subdir={quoted(point.folder)}"]


def _launch(
    launcher: Launcher, asked: SweepWords, points: Sequence[Point], *more: str, first: int = 0
) -> None:
    """To the end of each, with ``more`` words for all."""
    jobs = [[*_job_words(asked, point), *more] for point in points]
    for job in launcher.launch(jobs, initial_job_idx=first) if jobs else ():
        _ = job.return_value  # raises what is a defect of ours and no outcome of a run


def _launch_halving(
    launcher: Launcher,
    asked: SweepWords,
    rungs: Sequence[int],
    refused: Collection[Point],
    console: Console,
) -> None:
    """Rung by rung; what was judged before is judged again, beside what came new."""
    assert asked.halving is not None
    going_on = [point for point in asked.points if point not in refused]
    started = 0
    for steps in rungs:
        short = [point for point in going_on if steps_of(asked.folder, point) < steps]
        _launch(launcher, asked, short, f"run.until={steps}", first=started)
        if stops(asked.folder):
            return
        started += len(short)
        judgement = judge(asked.folder, going_on, steps, one_of=asked.halving.one_of)
        console.print(judgement.words, soft_wrap=True, markup=False)
        for point, why in judgement.set_aside.items():
            if not _is_finished(asked.folder, point):
                write_outcome(asked.folder / point.folder, Outcome(state=SET_ASIDE, message=why))
        going_on = list(judgement.going_on)
        if len({point.but_for_the_seed for point in going_on}) == 1:
            break
    unfinished = [point for point in going_on if not _is_finished(asked.folder, point)]
    _launch(launcher, asked, unfinished, "run.until=null", first=started)


def _launch_trials(launcher: Launcher, asked: SweepWords, search: Search, console: Console) -> SweepWords:
    """One setting after the other, its seeds together; ``asked`` with the points that were tried."""
    words, tried = search.words, dict[Point, None]()
    for number in range(1, words.trials + 1):
        trial, setting = search.ask()
        points = [point_of([*setting, seed]) for seed in words.seeds] or [point_of(setting)]
        now = replace(asked, points=tuple(points))
        waiting = [point for point in points if not _is_finished(asked.folder, point)]
        refused = _refusals(now, waiting)
        _write_points(now, refused)
        console.print(f"trial {number} of {words.trials}: {name_of(setting)}", soft_wrap=True, markup=False)
        runnable = [point for point in waiting if point not in refused]
        _launch(launcher, now, runnable, first=len(tried))
        tried |= dict.fromkeys(points)
        if stops(asked.folder):
            break
        search.tell(trial, _measured(asked.folder, now))
    return replace(asked, points=tuple(tried))


def _measured(folder: Path, asked: SweepWords) -> dict[str, float] | None:
    """The means of one setting over the seeds that finished; None where none did."""
    record = SweepRecord(common=asked.common, points=asked.points)
    [row], _ = sweep_rows(points_of(folder, record))
    return {name: mean.value for name, mean in row.means.items()} or None


# ---------------------------------------------------------------- after


def _conclude(asked: SweepWords, console: Console) -> None:
    """The table of all that the directory holds, also in sweep.md; then what failed and why."""
    folder = asked.folder
    points = points_of(folder, read_sweep(folder))
    rows, source = sweep_rows(points)
    replace_file(folder / "sweep.md", sweep_markdown(rows, source))
    console.print(sweep_table(rows, source))
    for point in points:
        if (point.outcome.is_failure or point.outcome.state == SET_ASIDE) and point.point in asked.points:
            line = f"{point.outcome.state}: {point.point.name}: {point.outcome.message}"
            console.print(line, soft_wrap=True, markup=False)
    console.print(f"table  {folder / 'sweep.md'}", soft_wrap=True, markup=False)


def _raise_end(asked: SweepWords, signals: bytes) -> None:
    """Of the points that were asked for; those of an earlier command with more choices do not count."""
    folder = asked.folder
    outcomes = [read_outcome(folder / point.folder) for point in asked.points]
    open_points = sum(outcome.state not in (FINISHED, SET_ASIDE) for outcome in outcomes)
    failed = sum(outcome.is_failure for outcome in outcomes)
    goes_on = f"the same command with sweep.dir={folder} goes on with them"
    if signals:
        code = 10 if len(signals) == 1 else 128 + signals[0]
        raise Stopped(f"stopped with {open_points} of {len(outcomes)} points unfinished; {goes_on}", code)
    if failed:
        raise RunError(f"{failed} of {len(outcomes)} points failed; {goes_on}")
    if open_points:
        raise Stopped(f"{open_points} of {len(outcomes)} points were stopped; {goes_on}")
