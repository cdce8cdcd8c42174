"""A study as one HTML file: measured points beside planned lines, and what was planned or simulated alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from megaent.plan.series import Line as PlanLine
from megaent.report.beside import figure
from megaent.report.page import Cell, Number, Section, figures, paragraph, preformatted, render_page, table
from megaent.report.svg import Frame, Line, curves_chart
from megaent.scale.planned import VERBS, Planned
from megaent.scale.point import Measured
from megaent.scale.series import Series
from megaent.scale.simulated import FleetLine
from megaent.scale.study import Study, plans_of


def study_page(study: Study, asked: Sequence[Series]) -> str:
    lead = paragraph(
        "Every figure says whether it was measured in a run, planned from data sheets, or simulated event "
        "by event."
    )
    sections = [_about(study)]
    if study.rates is not None:
        sections += [_measured(study, one) for one in asked if _is_whole(study, one)]
    if study.cards:
        sections.append(_cards(study.cards))
    sections += _fleets(study)
    return render_page("How a step grows", lead, sections)


def _about(study: Study) -> Section:
    text = "\n".join(f"{name}: {_told(value)}" for name, value in study.record.items() if name != "question")
    parts = [preformatted(text, label="Where and how")]
    if study.rates is not None:
        rates = study.rates
        rows: list[Sequence[Cell]] = [
            ["matrix product, GFLOP/s", Number(rates.product_flops / 1e9)],
            ["side that halves it", Number(rates.product_half)],
            ["causal attention, GFLOP/s", Number(rates.attention_flops / 1e9)],
            ["copy, GB/s read and written", Number(rates.copy_bytes_per_s / 1e9)],
            ["all-gather of two processes, GB/s", Number(rates.exchange_bytes_per_s / 1e9)],
            ["its latency, ms", Number(rates.exchange_latency_s * 1e3)],
        ]
        caption = f"Measured here, one thread of {rates.cores} cores, fp32"
        parts.append(table(("rate", "value"), rows, caption=caption))
    return Section(heading="Where it was made", parts=tuple(parts))


def _told(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in value.items() if one is not None)
    return str(value)


# ---------------------------------------------------------------- measured beside planned


def _is_whole(study: Study, one: Series) -> bool:
    return all(point.name in study.points for point in one.points.values())


def _measured(study: Study, one: Series) -> Section:
    plans = plans_of(study, one)
    measured = {value: study.points[point.name] for value, point in one.points.items()}
    pictures = [_verb(one, verb, measured, plans) for verb in VERBS]
    pictures.append(_throughput(one, measured))
    rows = [_row(value, measured[value], plans[value]) for value in measured]
    heads = (one.unit, "step, s", "tokens a second", "generate, s", "score, s", "planned", "update, s",
             "planned", "publish, s", "peak, GiB", "states, GiB (exact)")  # fmt: skip
    numbers = table(heads, rows, caption=f"{one.title}: medians of rank 0")
    about = paragraph(
        "The plan knows this machine's rates, and of the base run what no product explains; so its lines "
        "meet the base and follow by themselves from there."
    )
    parts = (about, figures(pictures), numbers, *_collectives(study, one))
    return Section(heading=f"{one.title}, measured here", parts=parts)


def _collectives(study: Study, one: Series) -> list[str]:
    """Of the series' points with several ranks."""
    rows: list[Sequence[Cell]] = [
        [str(value), kind.replace("_", " "), f"{count:,}", f"{num_bytes:,}"]
        for value, point in one.points.items()
        for kind, (count, num_bytes) in study.collectives.get(point.name, {}).items()
    ]
    heads = (one.unit, "collective", "times a step", "bytes a step")
    caption = "Collectives of the second step, counted as rank 0 enters them: generation to publication"
    return [table(heads, rows, caption=caption)] if rows else []


def _row(value: int, found: Measured, plan: Planned) -> list[Cell]:
    seconds = found.seconds
    return [
        str(value), Number(seconds["step"]), Number(found.tokens_per_s, "{:,.0f}"),
        Number(seconds["generate"]), Number(seconds["score"]), Number(plan.seconds["score"]),
        Number(seconds["update"]), Number(plan.seconds["update"]), Number(seconds["publish"]),
        Number(found.peak_gib, "{:.2f}"), Number(plan.states_gib, "{:.4f}"),
    ]  # fmt: skip


def _verb(one: Series, verb: str, measured: dict[int, Measured], plans: dict[int, Planned]) -> str:
    values = list(measured)
    found = [measured[value].seconds[verb] for value in values]
    plan = [plans[value].seconds[verb] for value in values]
    lines = [
        Line(label="measured", steps=values, values=found),
        Line(label="planned", steps=values, values=plan),
    ]
    return _chart(
        f"{one.name}-{verb}", f"{verb.capitalize()}: {one.title.lower()}", "seconds", one.unit, lines
    )


def _throughput(one: Series, measured: dict[int, Measured]) -> str:
    line = Line(
        label="measured", steps=list(measured), values=[one.tokens_per_s for one in measured.values()]
    )
    return _chart(
        f"{one.name}-tokens", f"Tokens a second: {one.title.lower()}", "tokens a second", one.unit, [line]
    )


def _chart(name: str, title: str, unit: str, across: str, lines: Sequence[Line]) -> str:
    words = "; ".join(
        f"{line.label} "
        + ", ".join(f"{value:.3g} at {step:g}" for step, value in zip(line.steps, line.values, strict=True))
        for line in lines
    )
    frame = Frame(name=name, title=title, unit=unit, words=words, across=across, doubling=True)
    return figure(title, curves_chart(frame, lines), _numbers(title, across, lines))


def _numbers(title: str, across: str, lines: Sequence[Line]) -> str:
    """What a picture shows, as a table."""
    of = [dict(zip(line.steps, line.values, strict=True)) for line in lines]
    rows = [
        [f"{step:g}", *(Number(found[step]) if step in found else "" for found in of)]
        for step in sorted({step for line in lines for step in line.steps})
    ]
    return table((across, *(line.label for line in lines)), rows, caption=title)


# ---------------------------------------------------------------- planned


def _cards(plans: dict[str, list[PlanLine]]) -> Section:
    fits = {model: [line for line in lines if not line.why_not] for model, lines in plans.items()}
    lines = [
        Line(
            label=model,
            steps=[line.cards for line in found],
            values=[line.tokens_per_s_per_gpu for line in found],
        )
        for model, found in fits.items()
        if found
    ]
    picture = (
        _chart("cards", "Tokens a second and card", "tokens a second, a card", "cards", lines)
        if lines
        else ""
    )
    heads = (
        "model",
        "cards",
        "step, s",
        "tokens a second, a card",
        "card-hours a step",
        "GiB",
        "waits mostly for",
        "layout",
    )
    rows = [_plan_row(model, line) for model, found in plans.items() for line in found]
    caption = "Planned, nothing measured: 128 prompts x 16 responses of 4,096 tokens in the mean"
    return Section(
        heading="Models on cards, planned", parts=(figures([picture]), table(heads, rows, caption=caption))
    )


def _plan_row(model: str, line: PlanLine) -> list[Cell]:
    if line.why_not:
        return [model, str(line.cards), "", "", "", "", line.why_not, ""]
    return [
        model, str(line.cards), Number(line.seconds), Number(line.tokens_per_s_per_gpu, "{:,.0f}"),
        Number(line.card_hours), Number(line.memory_gib, "{:.1f}"), f"{line.limit} {line.limit_share:.0%}",
        line.layout,
    ]  # fmt: skip


# ---------------------------------------------------------------- simulated


def _fleets(study: Study) -> list[Section]:
    sections = []
    if study.fleet:
        sections.append(_fleet("A fleet at the same batch, simulated", "fleet", study.fleet))
    if study.growing:
        sections.append(_fleet("A fleet whose batch grows with it, simulated", "growing", study.growing))
    if study.split:
        caption = "The same cards divided otherwise between engines and trainer"
        table_of = _fleet_table(study.split, caption)
        sections.append(Section(heading="Engines and trainer, simulated", parts=(table_of,)))
    return sections


def _fleet(heading: str, name: str, lines: Sequence[FleetLine]) -> Section:
    fits = [line for line in lines if not line.why_not]

    def chart(ending: str, title: str, unit: str, of: Callable[[FleetLine], float]) -> str:
        curves = [
            Line(
                label=f"staleness {staleness}",
                steps=[line.cards for line in fits if line.staleness == staleness],
                values=[of(line) for line in fits if line.staleness == staleness],
            )
            for staleness in dict.fromkeys(line.staleness for line in fits)
        ]
        return _chart(f"{name}-{ending}", title, unit, "cards", curves)

    pictures = [
        chart(
            "tokens",
            "Tokens a second and card",
            "tokens a second, a card",
            lambda line: line.tokens_per_s_per_card,
        ),
        chart("seconds", "Seconds a step", "seconds", lambda line: line.simulated_s),
    ]
    return Section(
        heading=heading,
        parts=(figures(pictures if fits else []), _fleet_table(lines, "Each line's best plan, simulated")),
    )


def _fleet_table(lines: Sequence[FleetLine], caption: str) -> str:
    heads = ("cards", "staleness", "prompts", "engine cards", "step, s: simulated", "planned",
             "tokens a second, a card", "longest part", "engines busy", "trainer's layout")  # fmt: skip
    return table(heads, [_fleet_row(line) for line in lines], caption=caption)


def _fleet_row(line: FleetLine) -> list[Cell]:
    if line.why_not:
        return [str(line.cards), str(line.staleness), "", "", "", "", "", line.why_not, "", ""]
    engines = str(line.engine_cards) if line.engine_cards else "shared"
    return [
        str(line.cards), str(line.staleness), str(line.prompts), engines, Number(line.simulated_s),
        Number(line.planned_s), Number(line.tokens_per_s_per_card, "{:,.0f}"), line.limit, f"{line.busy:.0%}",
        line.layout,
    ]  # fmt: skip
