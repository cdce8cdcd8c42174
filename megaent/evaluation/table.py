"""An evaluation as a person reads it, in 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from megaent.evaluation.estimators import Estimate
from megaent.evaluation.report import Comparison, Report

_MOST_ROWS = 24  # of one label


def show(
    console: Console,
    title: Sequence[str],
    whole: Report,
    cuts: Mapping[str, Mapping[str, Report]],
    comparison: Comparison | None,
) -> None:
    for line in title:
        console.print(Text(line))
    console.print(_estimates(whole))
    for line in _counts(whole):
        console.print(Text(line))
    if comparison is not None:
        console.print()
        for line in comparison_words(comparison):
            console.print(Text(line))
        console.print(_transitions(comparison))
    for label, parts in cuts.items():
        console.print()
        console.print(_cut(label, parts))
        if len(parts) > _MOST_ROWS:
            console.print(Text(f"{len(parts) - _MOST_ROWS} more are in summary.json"))


def _estimates(whole: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 3, 0, 0))
    table.add_column("")
    table.add_column("value", justify="right")
    table.add_column("95 % interval")
    table.add_column("known of", justify="right")
    for name, estimate in whole.estimates.items():
        table.add_row(name, *_estimate(estimate))
    return table


def _estimate(estimate: Estimate) -> tuple[str, str, str]:
    known = f"{estimate.known}/{estimate.prompts} prompts"
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "not known", "", known
    return f"{estimate.value:.3f}", f"{estimate.low:.3f} to {estimate.high:.3f}", known


def _counts(whole: Report) -> list[str]:
    lengths, total = whole.lengths, whole.responses

    def share(count: int) -> str:
        return f"{count} ({count / total:.1%})"

    quantiles = ", ".join(f"{q:.0%} ≤ {length}" for q, length in lengths.quantiles.items())
    lines = [
        f"{total} responses: {share(whole.correct)} correct, {share(whole.wrong)} wrong,",
        f"  {share(whole.unparsable)} without an answer, {share(whole.unscored)} not scored, in no estimate;",
        f"  {share(whole.truncated)} cut at the length limit",
        f"tokens: mean {lengths.mean:.1f}, of correct ones {_number(lengths.correct)}, of wrong ones "
        f"{_number(lengths.wrong)};",
        f"  {quantiles}, longest {lengths.longest}",
    ]
    return lines + _entropy(whole)


def _entropy(whole: Report) -> list[str]:
    """Several places a line."""
    if not whole.entropy:
        return ["entropy by position: not known (drawn at temperature 0, or with top_p below 1)"]
    cells = [
        (f"{part.first}" if part.first == part.last else f"{part.first}-{part.last}") + f": {part.nats:.3f}"
        for part in whole.entropy
    ]
    lines = ["entropy by position, nats, from the drawn tokens' log-probabilities:"]
    return lines + ["  " + "   ".join(cells[i : i + 5]) for i in range(0, len(cells), 5)]


def comparison_words(comparison: Comparison) -> list[str]:
    test = comparison.accuracy
    interval = "" if test.low is None else f" ({test.low:+.3f} to {test.high:+.3f})"
    chance = "not known" if test.p_value is None else f"{test.p_value:.3g}"
    return [
        f"against the base: accuracy {test.difference:+.3f}{interval}, p = {chance}",
        f"  (exact test of sign flips over {test.prompts} shared prompts);",
        f"  base {comparison.base_accuracy:.3f} with {comparison.base_length:.1f} tokens",
        f"  L-Acc {_number(comparison.l_acc, '.3f')}   NAG {_number(comparison.nag, '.2f')} "
        f"(Table 1: {_number(comparison.nag_table1, '.2f')})   AES {_number(comparison.aes, '.3f')}",
    ]


def _transitions(comparison: Comparison) -> Table:
    """What became of each of the base's answers; steps are parts between empty lines."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0))
    table.add_column("base, now")
    for heading in ("responses", "share", "tokens, base", "now", "steps, base", "now"):
        table.add_column(heading, justify="right")
    for part in comparison.transitions:
        verdicts = ", ".join("right" if correct else "wrong" for correct in (part.before, part.after))
        numbers = (part.base_length, part.length, part.base_steps, part.steps)
        table.add_row(verdicts, str(part.pairs), f"{part.share:.1%}", *(f"{value:.1f}" for value in numbers))
    return table


def _cut(label: str, parts: Mapping[str, Report]) -> Table:
    first = next(iter(parts.values()))
    names = [name for name in first.estimates if name.startswith(("avg@", "pass@"))][-2:]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0))
    table.add_column(label, overflow="fold", max_width=28)
    for heading in ("prompts", *names, "tokens", "cut", "no answer"):
        table.add_column(heading, justify="right")
    for value, part in list(parts.items())[:_MOST_ROWS]:
        values = (_number(part.estimates[name].value, ".3f") for name in names)
        counts = (f"{part.truncated / part.responses:.0%}", f"{part.unparsable / part.responses:.0%}")
        table.add_row(Text(value), str(part.prompts), *values, f"{part.lengths.mean:.1f}", *counts)
    return table


def _number(value: float | None, form: str = ".1f") -> str:
    return "-" if value is None else format(value, form)
