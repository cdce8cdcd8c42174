"""Documents are held to what they say: their links lead somewhere, their metrics are the reported ones."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from support.documents import documented_metrics

from megaent.report.curves import PANELS
from megaent.report.metrics import render_line

_LINK = re.compile(r"\]\((?!https?://)([^)#]+)")
_FILE = re.compile(r"`((?:megaent|docs|configs|scripts|tests|kernels|csrc)/[\w./-]+\.\w+)`")


def documents(repository: Path) -> list[Path]:
    return [
        *repository.glob("*.md"),
        *(repository / "docs").rglob("*.md"),
        *(repository / "csrc").glob("*.md"),
        *(repository / "findings").glob("*.md"),
    ]


def areas(repository: Path) -> set[str]:
    return {
        name.partition("/")[0]
        for name in documented_metrics(repository / "docs" / "metrics.md")
        if "/" in name
    }


def named_in_code(repository: Path) -> set[str]:
    """Every string of the library that reads like a metric of a known area."""
    strings = set()
    for path in (repository / "megaent").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        # The pieces of a composed string are no names; a run of the loop is asked for those.
        pieces = {id(piece) for node in nodes if isinstance(node, ast.JoinedStr) for piece in node.values}
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in pieces:
                strings.add(node.value)
    shape = re.compile(rf"({'|'.join(sorted(areas(repository)))})/[a-z0-9_]+")
    return {text for text in strings if shape.fullmatch(text)}


def test_links_inside_the_tree_lead_somewhere(repository: Path) -> None:
    broken = [
        f"{path.relative_to(repository)}: {target}"
        for path in documents(repository)
        for target in _LINK.findall(path.read_text())
        if not (path.parent / target).exists()
    ]
    assert broken == []


def test_files_named_in_documents_exist(repository: Path) -> None:
    missing = [
        f"{path.relative_to(repository)}: {name}"
        for path in documents(repository)
        for name in _FILE.findall(path.read_text())
        if not (repository / name).exists()
    ]
    assert missing == []


def test_documented_metrics_have_names_that_can_be_written(repository: Path) -> None:
    names = documented_metrics(repository / "docs" / "metrics.md")
    assert len(names) > 40
    assert render_line(1, dict.fromkeys(names, 0.0)).count(":") == len(names) + 1


def test_every_metric_that_the_code_names_has_its_line(repository: Path) -> None:
    named = named_in_code(repository)
    assert {"entropy/update", "clip/high", "grad/norm"} <= named, "the search finds what is certainly there"
    assert named - documented_metrics(repository / "docs" / "metrics.md") == set()


def test_the_curves_are_drawn_from_documented_metrics(repository: Path) -> None:
    drawn = {name for _, _, curves in PANELS for name, _ in curves}
    assert drawn <= documented_metrics(repository / "docs" / "metrics.md")


def test_a_metric_explained_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.md"
    path.write_text("- `loss`: one\n- `lr`: two\n")
    assert documented_metrics(path) == {"loss", "lr"}
    path.write_text("- `loss`: one\n- `loss`: two\n")
    with pytest.raises(ValueError, match="once"):
        documented_metrics(path)
