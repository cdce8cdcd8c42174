"""The page's own data: what the tables hold, within its size, and unable to end its element."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.table_rows import LENGTH, entropy_of, write_tables

from megaent.report import heat_map
from megaent.report.heat_map import heat_map_section
from megaent.report.observatory import read_tables

EVIL = "</script><script>alert(1)</script><!--<script>"


def data_of(path: Path) -> tuple[str, dict]:
    (section,) = heat_map_section({"a </script> run": read_tables(path)})
    (text,) = re.findall(r'id="heat-data">(.*?)</script>', "".join(section.parts))
    return text, json.loads(text)


def test_tokens_are_those_of_the_tables(tmp_path: Path) -> None:
    write_tables(tmp_path, steps=60)
    _, data = data_of(tmp_path)
    (run,) = data["runs"]
    steps = [one["step"] for one in run["steps"]]
    assert (steps[0], steps[-1], len(steps)) == (1, 60, heat_map.MOST_STEPS)
    for one in run["steps"]:
        right, wrong = one["responses"]
        assert (right["correct"], wrong["correct"]) == (True, False)
        truth = [entropy_of(one["step"], place, correct=True) for place in range(LENGTH)]
        assert right["entropy"] == pytest.approx(truth, rel=5e-3)
        assert right["advantage"] == [1.0] * LENGTH
        assert right["mask"] == [1] * (LENGTH - 1) + [0]
        assert "segment" not in right


def test_markup_cannot_end_the_element(tmp_path: Path) -> None:
    write_tables(tmp_path, steps=2, texts=(EVIL,), prompt=EVIL)
    text, data = data_of(tmp_path)
    assert "<" not in text
    response = data["runs"][0]["steps"][0]["responses"][0]
    assert response["prompt"] == EVIL
    assert set(response["text"]) == {EVIL}
    assert data["runs"][0]["name"] == "a </script> run"


def test_the_data_stay_within_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tables(tmp_path, steps=60)
    whole, _ = data_of(tmp_path)
    monkeypatch.setattr(heat_map, "MOST_BYTES", len(whole) // 3)
    text, data = data_of(tmp_path)
    assert len(text) <= len(whole) // 3
    assert 3 <= len(data["runs"][0]["steps"]) < heat_map.MOST_STEPS


def test_the_script_cannot_end_its_element(repository: Path) -> None:
    script = (repository / "megaent" / "report" / "heat_map.js").read_text()
    assert "</" not in script
    assert "<!--" not in script
    assert "innerHTML" not in script
