"""Where the worked cases come from: the project's own file, or the one named by ``--golden``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("cases.json")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", default=None, metavar="FILE", help="worked cases to run instead of ours")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        # The option is unknown to a run of the whole suite, which does not read this file early enough.
        path = Path(metafunc.config.getoption("--golden", default=None) or CASES)
        cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
        metafunc.parametrize("case", cases, ids=[case["id"] for case in cases])
