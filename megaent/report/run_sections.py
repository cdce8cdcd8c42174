"""The report of one run: how it ended, its curves, what it took, its method, its settings, its files."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from megaent.report.alarms import alarms
from megaent.report.method_panels import method_panels
from megaent.report.page import (
    Cell,
    Number,
    Section,
    figures,
    folded,
    notes,
    paragraph,
    preformatted,
    table,
)
from megaent.report.panel import Panel
from megaent.report.progress import format_seconds
from megaent.report.run_files import RunFiles, column
from megaent.report.svg import Line, line_chart

MOST_ROWS = 24
"""Steps in the table under a chart: the first, the last, and some between."""

VERBS = ("generate", "grade", "pack", "score", "estimate", "update", "publish")


PANELS = (
    Panel(
        title="Reward and accuracy",
        unit="per response",
        curves=(("reward/mean", "reward"), ("accuracy/mean", "accuracy")),
    ),
    Panel(
        title="Accuracy on held-out prompts",
        unit="share, 95 % interval",
        curves=(("evaluate/accuracy", "accuracy"),),
        interval=("evaluate/accuracy_low", "evaluate/accuracy_high"),
    ),
    Panel(
        title="Length",
        unit="tokens a response",
        curves=(("length/mean", "mean"), ("length/max", "longest")),
    ),
    Panel(
        title="Entropy",
        unit="nats a token",
        curves=(
            ("entropy/mean", "mean"),
            ("entropy/p10", "10th percentile"),
            ("entropy/p90", "90th percentile"),
        ),
    ),
    Panel(
        title="Mismatch of trainer and engine",
        unit="nats, absolute",
        curves=(("mismatch/mean_abs", "mean"),),
    ),
    Panel(
        title="Largest mismatch of a token",
        unit="nats, absolute",
        curves=(("mismatch/max_abs", "largest"),),
    ),
    Panel(
        title="Tokens held by the clip",
        unit="share of trained tokens",
        curves=(("clip/high", "upper bound"), ("clip/low", "lower bound"), ("clip/dual", "dual clip")),
    ),
    Panel(
        title="Groups without a signal",
        unit="share of groups",
        curves=(("accuracy/solved_none", "none correct"), ("accuracy/solved_all", "all correct")),
    ),
    Panel(title="Cut by the length limit", unit="share of responses", curves=(("length/truncated", "cut"),)),
    Panel(title="Distance from the old policy", unit="nats a token", curves=(("kl_to_old/mean", "KL"),)),
    Panel(title="Gradient norm", unit="before clipping", curves=(("grad/norm", "norm"),)),
)
_COST = (
    Panel(title="Time by verb", unit="seconds", curves=tuple((f"time/{verb}_s", verb) for verb in VERBS)),
    Panel(
        title="Memory by verb",
        unit="GiB, peak",
        curves=tuple((f"memory/{verb}_gib", verb) for verb in VERBS),
    ),
)
_EVALUATIONS = (
    ("accuracy", "accuracy", "{:.1%}"),
    ("lower end of its 95 % interval", "accuracy_low", "{:.1%}"),
    ("upper end", "accuracy_high", "{:.1%}"),
    ("pass@8", "pass_at_8", "{:.1%}"),
    ("mean length, tokens", "mean_length", "{:.1f}"),
    ("mean entropy, nats", "mean_entropy", "{:.3f}"),
    ("entropy of the first token, nats", "mean_first_entropy", "{:.3f}"),
)


def run_sections(run: RunFiles) -> list[Section]:
    """The sections that the run's files have something for, in reading order."""
    sections = [
        Section(heading="How it went", parts=tuple(_state(run))),
        Section(heading="Curves", parts=(_charts(run, PANELS, "curve"),)),
        Section(heading="What it took", parts=tuple(_cost(run))),
        Section(heading="The method", parts=tuple(_method(run))),
        Section(heading="The last responses kept", parts=_responses(run)),
        Section(heading="Configuration", parts=tuple(_configuration(run))),
        Section(heading="Checkpoints", parts=(_checkpoints(run),)),
    ]
    has_content = {
        "Curves": bool(run.metrics),
        "What it took": bool(run.metrics),
        "The method": bool(run.method.strip()),
        "The last responses kept": bool(run.responses),
    }
    return [section for section in sections if has_content.get(section.heading, True)]


def state_of(run: RunFiles) -> str:
    """``finished, 150 steps``, or how far it is and when a step last ended."""
    if run.is_finished:
        return f"finished, {run.steps} steps"
    planned = f" of {run.planned}" if run.planned is not None else ""
    written = f"; the last ended {run.written:%Y-%m-%d %H:%M:%S}" if run.metrics and run.written else ""
    return f"not finished: {run.steps}{planned} steps{written}"


def _state(run: RunFiles) -> list[str]:
    took = f", {format_seconds(run.seconds)} in all" if run.seconds is not None else ""
    parts = [paragraph(f"{state_of(run)[0].upper()}{state_of(run)[1:]}{took}. Directory: {run.path}")]
    if run.notes:
        parts.append(notes(run.notes))
    rows: list[list[Cell]] = [
        [label, Number(run.before[key], form), Number(run.after[key], form)]
        for label, key, form in _EVALUATIONS
        if key in run.before and key in run.after
    ]
    if rows:
        caption = "Held-out prompts before the first step and after the last"
        parts.append(table(("measure", "before", "after"), rows, caption=caption))
    return [*parts, _alarms(run)] if run.metrics else parts


def _alarms(run: RunFiles) -> str:
    found = alarms(run.metrics)
    if not found:
        return paragraph("No alarm rang.")
    rows = [[str(alarm.step), alarm.name, alarm.cause, alarm.advice] for alarm in found]
    return table(("step", "alarm", "likely cause", "what to try"), rows, caption="Alarms")


def _charts(run: RunFiles, panels: Sequence[Panel], name: str) -> str:
    drawn = [
        chart(run, panel, f"{name}{number}")
        for number, panel in enumerate(panels)
        if any(column(run, metric)[0] for metric, _ in panel.curves)
    ]
    return figures(drawn)


def chart(run: RunFiles, panel: Panel, name: str) -> str:
    """A picture and, folded below it, the numbers that it was drawn from."""
    lines = []
    for metric, label in panel.curves:
        steps, values = column(run, metric)
        if steps:
            lines.append(Line(label=label, steps=steps, values=values))
    if panel.interval and lines:
        low, high = (column(run, metric)[1] for metric in panel.interval)
        if len(low) == len(high) == len(lines[0].steps):
            first = lines[0]
            lines[0] = Line(label=first.label, steps=first.steps, values=first.values, low=low, high=high)
    svg = line_chart(name, lines, title=panel.title, unit=panel.unit, words=in_words(lines, panel.unit))
    metrics = [metric for metric, _ in panel.curves if column(run, metric)[0]]
    rows = _numbers(run, metrics)
    numbers = table(
        ("step", *metrics), rows, caption=f"{panel.title}: {len(rows)} of {len(run.metrics)} steps"
    )
    caption = f"<figcaption>{panel.title}</figcaption>"
    return f"<figure>{caption}{svg}{folded('Numbers', numbers)}</figure>"


def in_words(lines: Sequence[Line], unit: str, across: str = "step") -> str:
    """What a picture shows, for a screen reader: ends, least and largest of each curve."""
    told = [
        f"{line.label}: {line.values[0]:.3g} at {across} {line.steps[0]:g}, {line.values[-1]:.3g} at "
        f"{across} {line.steps[-1]:g}, between {min(line.values):.3g} and {max(line.values):.3g}"
        for line in lines
    ]
    return f"In {unit}. " + ". ".join(told) + "."


def _numbers(run: RunFiles, metrics: Sequence[str]) -> list[list[Cell]]:
    reported = [line for line in run.metrics if any(metric in line for metric in metrics)]
    return [
        [f"{line['step']:g}", *(Number(line[metric]) if metric in line else "-" for metric in metrics)]
        for line in _some(reported)
    ]


def _some(lines: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    """At most ``MOST_ROWS``, evenly over the run, the first and the last among them."""
    if len(lines) <= MOST_ROWS:
        return list(lines)
    last = len(lines) - 1
    return [lines[round(index * last / (MOST_ROWS - 1))] for index in range(MOST_ROWS)]


def _cost(run: RunFiles) -> list[str]:
    seconds = {verb: column(run, f"time/{verb}_s")[1] for verb in (*VERBS, "evaluate")}
    memory = {verb: column(run, f"memory/{verb}_gib")[1] for verb in VERBS}
    whole = sum(column(run, "time/step_s")[1]) + sum(seconds["evaluate"])
    rows: list[list[Cell]] = [
        [
            verb,
            Number(fmean(values), "{:.3f}"),
            Number(sum(values), "{:.1f}"),
            Number(sum(values) / whole, "{:.0%}") if whole else "-",
            Number(max(memory[verb]), "{:.2f}") if memory.get(verb) else "-",
        ]
        for verb, values in seconds.items()
        if values
    ]
    headings = ("verb", "seconds, mean", "seconds in all", "share", "peak memory, GiB")
    parts = [table(headings, rows, caption="Time and memory by verb, rank 0")] if rows else []
    return [*parts, _charts(run, _COST, "cost")]


def _method(run: RunFiles) -> list[str]:
    """In words, then the pieces it is made of: method.txt holds the pieces, an empty line and the words."""
    pieces, _, words = run.method.strip().partition("\n\n")
    if not words:
        return [preformatted(pieces, label="method.txt"), *_did(run)]
    shown = [paragraph(line) for line in words.splitlines()]
    folded_up = folded("Its pieces", preformatted(pieces, label="The pieces of the method"))
    return [*shown, folded_up, *_did(run)]


def _did(run: RunFiles) -> list[str]:
    """Pictures of what the pieces did, where they report something."""
    panels = method_panels(run.metrics)
    return [_charts(run, panels, "method")] if panels else []


def _responses(run: RunFiles) -> tuple[str, ...]:
    return (preformatted(run.responses, label="responses.md, its last step"),)


def _configuration(run: RunFiles) -> list[str]:
    parts = []
    if run.overrides:
        parts.append(preformatted("\n".join(run.overrides), label="The words that started the run"))
    if run.config:
        rows = [[key, value] for key, value in run.config.items()]
        parts.append(folded("Resolved", table(("key", "value"), rows, caption="Resolved configuration")))
    return parts or [paragraph("Neither config.yaml nor command.json can be read.")]


def _checkpoints(run: RunFiles) -> str:
    if not run.checkpoints:
        return paragraph("There is none.")
    rows: list[list[Cell]] = [
        [
            str(checkpoint.step),
            f"checkpoints/{checkpoint.folder}",
            Number(checkpoint.num_bytes / 1e6, "{:.1f}"),
        ]
        for checkpoint in run.checkpoints
    ]
    return table(("step", "folder", "MB"), rows, caption=f"In {run.path}")
