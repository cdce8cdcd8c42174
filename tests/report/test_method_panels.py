"""Pictures of what a method's pieces did."""

from __future__ import annotations

from pathlib import Path

from megaent.commands.report import report
from megaent.report.method_panels import OF_EVERY_RUN, method_panels
from megaent.report.metrics import render_line


def test_every_piece_has_a_picture_and_a_coefficient_its_own() -> None:
    metrics = [
        {
            "step": 1,
            "loss": 0.5,
            "entropy/mean": 1.0,
            "ceeh/hard_share": 0.5,
            "kl_cov/value": 0.1,
            "kl_cov/coef": 1.0,
        },
        {"step": 2, "ceeh/gate_share": 0.2},
    ]
    found = {panel.title: panel.curves for panel in method_panels(metrics)}
    assert found == {
        "ceeh": (("ceeh/gate_share", "gate share"), ("ceeh/hard_share", "hard share")),
        "kl_cov": (("kl_cov/value", "value"),),
        "kl_cov: its coefficient": (("kl_cov/coef", "coef"),),
    }


def test_what_every_run_reports_is_no_piece(repository: Path) -> None:
    """The document's sections before the method's name no area that would be drawn as a piece."""
    text = (repository / "docs" / "metrics.md").read_text()
    before, _, after = text.partition("## What the method did")
    areas = {line[3:].split("`")[0].split("/")[0] for line in before.splitlines() if line.startswith("- `")}
    assert {area for area in areas if f"`{area}/" in before} <= OF_EVERY_RUN
    assert after


def test_a_report_draws_them(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    lines = [{"loss": 1.0, "less/shared": 0.1 * step, "less/correct_only": 0.2} for step in (1, 2, 3)]
    (run / "metrics.jsonl").write_text(
        "".join(render_line(step, line) for step, line in enumerate(lines, start=1))
    )
    (run / "config.yaml").write_text("steps: 3\n")
    (run / "method.txt").write_text("Schedule(...)\n\nadvantage: reward minus the group's mean\n")
    assert report([str(run)], lambda line: None) == 0
    page = (run / "report.html").read_text()
    assert "<figcaption>less</figcaption>" in page
    assert f'value="{0.1 * 3!r}"' in page
