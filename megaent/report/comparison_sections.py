"""Several runs beside each other: curves, differences paired by seed, and where their settings differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from megaent.report.interval import mean_of
from megaent.report.page import NUM_COLOURS, Cell, Number, Section, figures, folded, notes, paragraph, table
from megaent.report.run_files import RunFiles, column, differing
from megaent.report.run_sections import in_words, state_of
from megaent.report.svg import Line, line_chart
from megaent.report.sweep_table import FORMS, numbers_of, show, source_of

MOST_LINES = NUM_COLOURS
_LONGEST_LABEL = 22  # characters in a picture
_OWN = ("seed", "run.dir", "run.name")  # what runs of one setting may differ in

CURVES = (  # title, unit, metric
    ("Reward", "per response", "reward/mean"),
    ("Accuracy", "per response", "accuracy/mean"),
    ("Accuracy on held-out prompts", "share", "evaluate/accuracy"),
    ("Length", "tokens a response", "length/mean"),
    ("Entropy", "nats a token", "entropy/mean"),
    ("Mismatch of trainer and engine", "nats, absolute", "mismatch/mean_abs"),
    ("Tokens held by the upper bound", "share of trained tokens", "clip/high"),
    ("Distance from the old policy", "nats a token", "kl_to_old/mean"),
    ("Gradient norm", "before clipping", "grad/norm"),
    ("Time of a step", "seconds", "time/step_s"),
)


def comparison_sections(runs: Mapping[str, RunFiles]) -> list[Section]:
    """``runs`` by names that tell them apart, the first being what the others are compared with."""
    return [
        Section(heading="The runs", parts=tuple(_overview(runs))),
        Section(
            heading="Curves over each other", parts=tuple(curves({name: [run] for name, run in runs.items()}))
        ),
        Section(heading="Paired differences", parts=tuple(_differences(runs))),
        Section(heading="Where the settings differ", parts=(_settings(runs),)),
    ]


def names_of(paths: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as it takes to tell them apart."""
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _overview(runs: Mapping[str, RunFiles]) -> list[str]:
    source = source_of(list(runs.values()))
    rows = []
    for name, run in runs.items():
        numbers = numbers_of(run, source)
        values: list[Cell] = [
            Number(numbers[key], form) if key in numbers else "-" for key, form in FORMS.items()
        ]
        rows.append([name, state_of(run), *values])
    headings = ("run", "state", "accuracy", "length, tokens", "entropy, nats")
    parts = [table(headings, rows, caption=f"Measured on {source}")]
    said = [f"{name}: {note}" for name, run in runs.items() for note in run.notes]
    return parts + ([notes(said)] if said else [])


def curves(groups: Mapping[str, Sequence[RunFiles]]) -> list[str]:
    """One line a group, the mean over its runs at the steps that all of them have reported."""
    shown = dict(list(groups.items())[:MOST_LINES])
    are_long = any(len(name) > _LONGEST_LABEL for name in shown)
    labels = {name: str(number) if are_long else name for number, name in enumerate(shown, start=1)}
    parts = []
    for number, (title, unit, metric) in enumerate(CURVES):
        lines = [line for name, runs in shown.items() if (line := _mean_line(labels[name], runs, metric))]
        if lines:
            words = in_words(lines, unit)
            svg = line_chart(f"over{number}", lines, title=title, unit=unit, words=words)
            parts.append(f"<figure><figcaption>{title}</figcaption>{svg}{_ends(lines, metric)}</figure>")
    left_out = len(groups) - len(shown)
    told = [_key(labels)] if are_long else []
    told += [paragraph(f"The first {len(shown)} of {len(groups)} are drawn.")] if left_out else []
    return [*told, figures(parts)] if parts else [paragraph("No step has ended in any of them.")]


def _key(labels: Mapping[str, str]) -> str:
    """What the numbers in the pictures stand for, where names are too long for them."""
    return table(("line", "runs"), [[label, name] for name, label in labels.items()], caption="Lines")


def _mean_line(name: str, runs: Sequence[RunFiles], metric: str) -> Line | None:
    reported = [dict(zip(*column(run, metric), strict=True)) for run in runs]
    reported = [values for values in reported if values]
    if not reported:
        return None
    steps = sorted(set.intersection(*map(set, reported)))
    means = [fmean(values[step] for values in reported) for step in steps]
    return Line(label=name, steps=steps, values=means) if steps else None


def _ends(lines: Sequence[Line], metric: str) -> str:
    rows: list[list[Cell]] = [
        [line.label, Number(line.values[0]), Number(line.values[-1]), f"{line.steps[-1]:g}"] for line in lines
    ]
    headings = ("line", "first", "last", "at step")
    return folded("Numbers", table(headings, rows, caption=metric))


# ---------------------------------------------------------------- differences


def _differences(runs: Mapping[str, RunFiles]) -> list[str]:
    """Each setting minus the first one, over the seeds that both have."""
    source, groups = source_of(list(runs.values())), _by_setting(runs)
    (first, baseline), *others = groups.items()
    if not others:
        return [paragraph("All runs have one setting and differ in their seeds at most.")]
    rows = []
    for name, seeds in others:
        common = sorted(baseline.keys() & seeds.keys())
        pairs = [(numbers_of(seeds[seed], source), numbers_of(baseline[seed], source)) for seed in common]
        rows.append([name, str(len(common)), *(_difference(pairs, key, form) for key, form in FORMS.items())])
    headings = ("setting", "seeds of both", "accuracy", "length, tokens", "entropy, nats")
    caption = f"Difference to {first}, on {source}; mean over seeds with its 95 % interval (Student's t)"
    lone = [paragraph("With one seed there is no interval: the difference may be chance.")]
    return [table(headings, rows, caption=caption), *(lone if any(row[1] == "1" for row in rows) else [])]


def _difference(pairs: Sequence[tuple[dict[str, float], dict[str, float]]], key: str, form: str) -> str:
    values = [one[key] - other[key] for one, other in pairs if key in one and key in other]
    return show(mean_of(values), form.replace(":", ":+")).replace("± +", "± ") if values else "-"


def _by_setting(runs: Mapping[str, RunFiles]) -> dict[str, dict[str, RunFiles]]:
    """Runs by everything but their seed, under the name of the first; then by seed."""
    names: dict[tuple, str] = {}
    groups: dict[str, dict[str, RunFiles]] = {}
    for name, run in runs.items():
        setting = tuple(sorted((key, value) for key, value in run.config.items() if key not in _OWN))
        group = groups.setdefault(names.setdefault(setting, name), {})
        group.setdefault(run.config.get("seed", "0"), run)
    return groups


def _settings(runs: Mapping[str, RunFiles]) -> str:
    found = differing([run.config for run in runs.values()])
    found.pop("run.dir", None)
    if not found:
        return paragraph("They do not: the resolved configurations are equal, run.dir aside.")
    rows = [[key, *values] for key, values in found.items()]
    headings = ("key", *runs)
    if len(runs) > MOST_LINES:
        rows = [[name, *(values[index] for values in found.values())] for index, name in enumerate(runs)]
        headings = ("run", *found)
    return table(headings, rows, caption="Keys whose value is not the same in all runs")
