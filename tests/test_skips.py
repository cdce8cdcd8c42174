"""The rules of tests/conftest.py about skipped tests, tried on small suites that break them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

GOOD = "'compiler missing: run `apt install g++`'"


def run(pytester: pytest.Pytester, body: str, *arguments: str) -> dict[str, int]:
    pytester.makeconftest((Path(__file__).parent / "conftest.py").read_text())
    pytester.makeini("[pytest]\nmarkers =\n    gpu: g\n    full: f\n")
    pytester.makepyfile("import pytest, torch\n" + body)
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments).parseoutcomes()


@pytest.mark.parametrize("arguments", [(), ("--no-skips",)])
def test_a_skip_without_a_command_fails(pytester: pytest.Pytester, arguments: tuple[str, ...]) -> None:
    assert run(pytester, "def test_a(): pytest.skip('no compiler')\n", *arguments) == {"failed": 1}


def test_a_skip_with_a_command_passes_until_skips_are_forbidden(pytester: pytest.Pytester) -> None:
    body = f"@pytest.mark.full\n@pytest.mark.skipif(True, reason={GOOD})\ndef test_a(): ...\n"
    assert run(pytester, body) == {"skipped": 1}
    # What a mark skips fails in its set-up, which pytest counts as an error.
    assert run(pytester, body, "--no-skips") == {"errors": 1}


def test_a_whole_module_cannot_be_skipped_in_silence(pytester: pytest.Pytester) -> None:
    body = "pytest.importorskip('no_such_package')\ndef test_a(): ...\n"
    assert "errors" in run(pytester, body)


def test_gpu_tests_are_skipped_without_a_gpu_even_in_the_full_tier(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "@pytest.mark.gpu\ndef test_a(): ...\n"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run(pytester, body, "--no-skips") == {"skipped": 1}
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert run(pytester, body, "--no-skips") == {"passed": 1}


def test_expected_failures_are_no_skips(pytester: pytest.Pytester) -> None:
    body = "@pytest.mark.xfail(strict=True)\ndef test_a(): assert 0\n"
    assert run(pytester, body, "--no-skips") == {"xfailed": 1}
