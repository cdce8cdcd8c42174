"""What every test run obeys: a skip says what is missing, and the full tier allows none.

A skipped test is a claim nobody checked. Its reason must therefore name what is missing and the command
that adds it; without one the test fails. Under ``--no-skips`` (the full tier) every skip fails, except
that of a test marked ``gpu`` on a machine without one.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from support.runs import SHARED

pytest_plugins = ["support.program"]

_COMMAND = re.compile(r"`[^`]+`|pip install|apt install|\./scripts/")
_NO_GPU = "no CUDA device here; run `./scripts/test -m gpu` on a machine that has one"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="fail what would be skipped, GPU tests aside")


def pytest_configure(config: pytest.Config) -> None:
    """A folder for what all processes of the session share; those of pytest-xdist inherit its name."""
    if SHARED not in os.environ:
        os.environ[SHARED] = folder = tempfile.mkdtemp(prefix="megaent-tests-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=_NO_GPU))


def _group(item: pytest.Item) -> str:
    """Tests of a group run in one process: those of a file, and all that talk to the same SGLang servers."""
    asks_servers = "real_servers" in getattr(item, "fixturenames", ())
    return "servers" if asks_servers else str(item.path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    # An expected failure reports itself as skipped too; it was run and is fine.
    if report.skipped and not hasattr(report, "wasxfail"):
        _judge_skip(report, item.config, is_gpu=item.get_closest_marker("gpu") is not None)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A whole module can be skipped too, by importorskip at its top."""
    report = yield
    if report.skipped:
        _judge_skip(report, collector.config, is_gpu=False)
    return report


def _judge_skip(
    report: pytest.TestReport | pytest.CollectReport, config: pytest.Config, *, is_gpu: bool
) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not _COMMAND.search(reason):
        verdict = "a skip must name what is missing and, in backquotes, the command that adds it"
    elif config.getoption("--no-skips") and not is_gpu:
        verdict = "nothing may be skipped under --no-skips"
    else:
        return
    report.outcome = "failed"
    report.longrepr = f"{verdict}; the reason given was: {reason}"


@pytest.fixture
def repository() -> Path:
    """The root of the source tree."""
    return Path(__file__).resolve().parents[1]
