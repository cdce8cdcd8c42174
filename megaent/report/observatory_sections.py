"""The entropy observatory of a page: pictures and tables of one run, or of a few beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from megaent.report.beside import figure, prefix, some
from megaent.report.fit_section import fit_parts
from megaent.report.observatory import (
    LATE,
    RunTables,
    TokenMean,
    by_correctness,
    by_difficulty,
    by_position,
    covariance_tail,
    fifths,
    histogram,
    ranked_tokens,
    segment_shares,
)
from megaent.report.page import Cell, Number, Section, figures, notes, paragraph, table
from megaent.report.paper_figures import (
    accuracy_over_length,
    entropy_along,
    gradient_by_entropy,
    length_distribution,
)
from megaent.report.run_files import RunFiles
from megaent.report.run_sections import in_words
from megaent.report.svg import Frame, Line, curves_chart, density_chart

MOST_RUNS = 3
"""Whose observatories stand on one page."""
_RANKED = 8

PICTURES = (  # title, unit, across, lines
    ("Entropy by correctness", "nats a token, mean over groups", "step", by_correctness),
    ("Entropy by difficulty of the group", "nats a token", "step", by_difficulty),
    ("Entropy by position in the response", "nats a token", "position, tokens", by_position),
    ("Covariance of advantage and log-prob", "mean of the tokens", "step", covariance_tail),
    ("Segments by class", "share of trained tokens", "step", segment_shares),
    ("Gradient by entropy", "|A w (1 - p)| at a token's own logit", "entropy, nats", gradient_by_entropy),
    ("Entropy along the response", "nats a token, last steps", "share of the response", entropy_along),
    ("Lengths of responses", "share at most as long", "length, tokens", length_distribution),
    ("Accuracy over length", "accuracy, a tenth of the steps", "length, tokens", accuracy_over_length),
)


def observatory_section(
    runs: Mapping[str, tuple[RunFiles, RunTables]], *, left_out: int = 0
) -> list[Section]:
    """[] where none of the runs has tables; ``left_out`` runs have some and are not among them."""
    shown = {name: run for name, run in runs.items() if run[1].has_rows}
    if not shown:
        return []
    parts = [_about(shown)]
    if left_out:
        parts.append(
            paragraph(f"Shown are the first {MOST_RUNS} runs that have tables; {left_out} are left out.")
        )
    rows = [_histograms(shown)]
    for number, (title, unit, across, lines) in enumerate(PICTURES):
        frame = Frame(name=f"seen{number}", title=title, unit=unit, words="", across=across)
        rows.append(_over_runs(frame, {name: lines(run) for name, (_, run) in shown.items()}))
    # Runs beside each other, picture by picture; of one run, pictures beside each other.
    parts += (
        map(figures, filter(None, rows))
        if len(shown) > 1
        else [figures([part for row in rows for part in row])]
    )
    parts += [part for name, (_, run) in shown.items() for part in _tokens(prefix(name, shown), run)]
    parts += fit_parts(shown)
    return [Section(heading="Entropy observatory", parts=tuple(part for part in parts if part))]


def _about(runs: Mapping[str, tuple[RunFiles, RunTables]]) -> str:
    told = [f"{prefix(name, runs)}{note}" for name, (_, run) in runs.items() for note in run.notes]
    about = paragraph(
        "Drawn from the run's tables. The histogram counts every trained token of every step; correctness "
        "and difficulty are means over the groups; the rest is of responses drawn at random from each step."
    )
    return about + (notes(told) if told else "")


# ---------------------------------------------------------------- pictures


def _histograms(runs: Mapping[str, tuple[RunFiles, RunTables]]) -> list[str]:
    """On one vertical axis, so that runs can be compared."""
    cells = {name: histogram(run) for name, (_, run) in runs.items()}
    top = max((cell.high for each in cells.values() for cell in each), default=1.0)
    return [
        figure(
            title := f"{prefix(name, runs)}Entropy of all tokens",
            density_chart(_of_cells(name, number, each), each, top=top),
            _cells(title, each),
        )
        for number, (name, each) in enumerate(cells.items())
        if each
    ]


def _of_cells(name: str, number: int, cells: Sequence) -> Frame:
    first, last = _quantiles(cells, cells[0].left), _quantiles(cells, cells[-1].left)
    words = (
        "Share of the tokens by step and entropy in nats. Half of the tokens lie below "
        f"{first[1]:.3g} in the first window and below {last[1]:.3g} in the last, "
        f"nine tenths below {first[2]:.3g} and {last[2]:.3g}."
    )
    return Frame(
        name=f"density{number}",
        title=f"Entropy of all tokens, {name}",
        unit="nats, square root scale",
        words=words,
    )


def _quantiles(cells: Sequence, left: float) -> tuple[float, float, float]:
    """Upper ends of the bins in which a tenth, a half and nine tenths of the window's tokens are reached."""
    window = [cell for cell in cells if cell.left == left]
    found = []
    for share in (0.1, 0.5, 0.9):
        reached = 0.0
        for cell in window:
            reached += cell.share
            if reached >= share - 1e-12:
                found.append(cell.high)
                break
    return found[0], found[1], found[2]


def _cells(title: str, cells: Sequence) -> str:
    lefts = sorted({cell.left for cell in cells})
    chosen = some(lefts)
    rows: list[list[Cell]] = [
        [f"{left:g}", *(Number(value) for value in _quantiles(cells, left))] for left in chosen
    ]
    headings = ("from step", "a tenth below", "half below", "nine tenths below")
    return table(headings, rows, caption=f"{title}, nats (upper ends of bins)")


def _over_runs(frame: Frame, lines: Mapping[str, list[Line]]) -> list[str]:
    """One picture a run."""
    drawn = []
    values = [value for each in lines.values() for line in each for value in line.values]
    top = 1.05 * max(values) if len(lines) > 1 and values and max(values) > 0 else None
    for number, (name, each) in enumerate(lines.items()):
        if not each:
            continue
        title = f"{prefix(name, lines)}{frame.title}"
        words = in_words(each, frame.unit, across=frame.across.partition(",")[0])
        picture = Frame(
            name=f"{frame.name}r{number}",
            title=title,
            unit=frame.unit,
            words=words,
            across=frame.across,
            top=top,
        )
        drawn.append(figure(title, curves_chart(picture, each), _numbers(title, frame, each)))
    return drawn


def _numbers(title: str, frame: Frame, lines: Sequence[Line]) -> str:
    values = [dict(zip(line.steps, line.values, strict=True)) for line in lines]
    places = some(sorted({place for each in values for place in each}))
    rows: list[list[Cell]] = [
        [f"{place:g}", *(Number(each[place]) if place in each else "-" for each in values)]
        for place in places
    ]
    headings = (frame.across, *(line.label for line in lines))
    return table(headings, rows, caption=f"{title}, {frame.unit}")


# ---------------------------------------------------------------- tokens


def _tokens(prefix: str, run: RunTables) -> list[str]:
    highest, lowest = ranked_tokens(run, _RANKED)
    if not highest:
        return []
    late = f"the last {LATE:.0%} of the steps"
    return [
        f'<div class="figures">{_ranked(f"{prefix}Tokens of highest entropy, {late}", highest)}'
        f"{_ranked(f'{prefix}Tokens of lowest entropy, {late}', lowest)}</div>",
        _fifths(f"{prefix}Where advantage and penalties act, {late}", run),
    ]


def _ranked(caption: str, means: Sequence[TokenMean]) -> str:
    rows: list[list[Cell]] = [
        [shown(mean.text), str(mean.count), Number(mean.entropy, "{:.3f}"), Number(mean.advantage, "{:+.3f}")]
        for mean in means
    ]
    return table(("token", "times", "entropy, nats", "advantage"), rows, caption=caption)


def shown(text: str) -> str:
    """A token's text, so that spaces and ends of lines can be seen."""
    seen = text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣")
    return seen or "(no text)"


def _fifths(caption: str, run: RunTables) -> str:
    names = ("lowest fifth", "second", "third", "fourth", "highest fifth")
    rows: list[list[Cell]] = [
        [
            name,
            Number(each.entropy, "{:.4f}"),
            Number(each.advantage_abs, "{:.3f}"),
            Number(each.weight, "{:.3f}"),
            Number(each.silenced, "{:.1%}"),
            Number(each.penalised, "{:.1%}"),
            Number(each.covariance, "{:+.4f}"),
        ]
        for name, each in zip(names, fifths(run), strict=False)
    ]
    headings = (
        "tokens by entropy",
        "entropy, nats",
        "|advantage|",
        "weight",
        "weight 0",
        "with a penalty",
        "covariance",
    )
    return table(headings, rows, caption=caption)
