"""The cards in docs/methods say what the code says: options, slots, neutral settings, tests, metrics."""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from support.documents import documented_metrics

from megaent.methods import METHODS
from megaent.methods.matrix import compatibility, render
from megaent.objective.compose import Part

every_name = pytest.mark.parametrize("name", METHODS)
HEADINGS = ["Options", "Tested", "What to watch", "Measured here"]


@pytest.fixture
def cards(repository: Path) -> Path:
    return repository / "docs" / "methods"


def section(page: str, heading: str) -> str:
    """What stands under a heading of the second level."""
    _, _, rest = page.partition(f"\n## {heading}\n")
    assert rest, f"expected a heading '## {heading}'"
    return rest.partition("\n## ")[0].strip()


def rows(table: str) -> list[list[str]]:
    """The cells of a Markdown table, without its heading."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines[2:]]


def written(value: object) -> str:
    """As in a configuration."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value) if value != "" else '""'


# ---------------------------------------------------------------- the overview


def test_every_method_has_a_card_and_every_card_a_method(cards: Path) -> None:
    assert {path.stem for path in cards.glob("*.md")} - {"README", "measured"} == set(METHODS)


def test_the_overview_lists_every_method_in_the_registry_s_order(cards: Path) -> None:
    table = rows(section((cards / "README.md").read_text(), "All of them"))
    assert [row[1] for row in table] == [f"`{name}`" for name in METHODS]
    assert [re.findall(r"\((\w+)\.md\)", row[0]) for row in table] == [[name] for name in METHODS]


def test_the_matrix_is_the_one_that_doctor_prints(cards: Path) -> None:
    page = (cards / "README.md").read_text()
    found = re.findall(r"<!-- matrix -->\n```text\n(.*?)\n```\n<!-- end of matrix -->", page, re.DOTALL)
    assert found == [render(compatibility())], "copy what `python -m megaent doctor --methods` prints"


def slots(part: Part) -> str:
    """The slots that a part or its phases fill, then in brackets those they only have a suggestion for."""
    order = [item.name for item in fields(Part) if item.name not in ("suggests", "top_log_probs")]
    empty = Part()
    every = [part, *(phase.part for phase in part.phases)]

    def filled(parts: list[Part]) -> list[str]:
        return [slot for slot in order if any(getattr(p, slot) != getattr(empty, slot) for p in parts)]

    firm = filled(every)
    offered = [slot for slot in filled([p.suggests for p in every if p.suggests]) if slot not in firm]
    return " ".join(filter(None, [", ".join(firm), f"({', '.join(offered)})" if offered else ""]))


def neutral(name: str) -> str | None:
    """``NEUTRAL`` of the method's module: its options, then what it is under them."""
    stated = getattr(sys.modules[METHODS[name].__module__], "NEUTRAL", None)
    if stated is None:
        return None
    options, base = stated

    def listed(some: dict[str, object]) -> str:
        return ", ".join(f"`{option}={written(value)}`" for option, value in some.items())

    ((base_name, base_options),) = base.items()
    return f"{listed(options)}: `{base_name}` {listed(base_options)}".strip()


@every_name
def test_the_overview_states_the_slots_and_the_neutral_setting(cards: Path, name: str) -> None:
    table = rows(section((cards / "README.md").read_text(), "All of them"))
    (row,) = [row for row in table if row[1] == f"`{name}`"]
    assert row[4] == slots(METHODS[name]())
    stated = neutral(name)
    if stated is None:
        assert ": `" not in row[5] or name == "kl_cov", "a neutral setting is stated as NEUTRAL and tested"
    else:
        assert row[5].startswith(stated)


# ---------------------------------------------------------------- each card


@every_name
def test_a_card_lists_every_option_with_its_default(cards: Path, name: str) -> None:
    table = rows(section((cards / f"{name}.md").read_text(), "Options"))
    expected = [
        (f"`{option}`", f"`{written(parameter.default)}`")
        for option, parameter in inspect.signature(METHODS[name]).parameters.items()
    ]
    assert [(option, default) for option, default, _ in table] == expected
    assert all(meaning for _, _, meaning in table)


@every_name
def test_a_card_has_its_headings_and_names_the_module_s_papers(cards: Path, name: str) -> None:
    page = (cards / f"{name}.md").read_text()
    assert [h for h in re.findall(r"^## (.+)$", page, re.MULTILINE) if h in HEADINGS] == HEADINGS
    assert f"`method={name}`" in page
    assert section(page, "Measured here") == "See [measured](measured.md)."
    pattern = r"arXiv:(\d{4}\.\d{5})"
    own = re.findall(pattern, inspect.getdoc(sys.modules[METHODS[name].__module__]) or "")
    assert own[0] in re.findall(pattern, page)


def names_of_tests(repository: Path) -> set[str]:
    return {
        node.name
        for path in (repository / "tests").rglob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_the_tests_that_cards_name_exist(repository: Path, cards: Path) -> None:
    known = names_of_tests(repository)
    for path in cards.glob("*.md"):
        named = re.findall(r"`(test_\w+)`", path.read_text())
        assert set(named) - known == set(), path.name
        assert named or path.stem in ("README", "measured"), f"{path.name} names no test"


def test_the_worked_cases_that_cards_name_exist(repository: Path, cards: Path) -> None:
    cases = json.loads((repository / "tests" / "golden" / "cases.json").read_text())["cases"]
    ids = [f"{case['id']}." for case in cases]
    for path in cards.glob("*.md"):
        _, _, text = path.read_text().partition("Worked cases: ")
        named = re.findall(r"`([\w.]+)`", re.split(r"\.\s", text)[0])
        assert named or not text, f"{path.name} says 'Worked cases:' and names none"
        assert [name for name in named if not any(id_.startswith(f"{name}.") for id_ in ids)] == [], path.name


@every_name
def test_the_metrics_that_a_card_names_are_documented(repository: Path, cards: Path, name: str) -> None:
    text = section((cards / f"{name}.md").read_text(), "What to watch")
    named = set(re.findall(r"`(\w+/\w+)`", text))
    assert named
    assert named - documented_metrics(repository / "docs" / "metrics.md") == set()
