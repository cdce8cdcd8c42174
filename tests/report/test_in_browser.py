"""Reports in a real browser: they open from the disk, their controls work, everybody can use them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.table_rows import LENGTH, TEXTS, entropy_of, write_tables

from megaent.commands.report import report
from megaent.report.metrics import render_line

pytestmark = pytest.mark.full

EVIL = "</script><img src=x onerror=alert(1)><script>alert(2)</script>"
WIDTHS = (360, 800, 1400)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    script = Path(__file__).resolve().parents[2] / "scripts" / "setup_browser"
    found = subprocess.run([str(script)], capture_output=True, text=True, timeout=1200, check=False)
    assert found.returncode == 0, found.stderr
    with sync_playwright() as driver:
        # Chromium's own sandbox needs privileges that containers withhold; the page is our own.
        browser = driver.chromium.launch(executable_path=found.stdout.strip(), args=["--no-sandbox"])
        yield browser
        browser.close()


def make_run(path: Path, texts: tuple[str, ...]) -> Path:
    write_tables(path, steps=30, texts=texts, prompt=EVIL, segments=True)
    lines = [
        {"reward/mean": 0.5, "accuracy/mean": 0.9 - 0.4 / step, "entropy/mean": 1 / step, "time/step_s": 1.0}
        for step in range(1, 31)
    ]
    text = "".join(render_line(step, line) for step, line in enumerate(lines, start=1))
    (path / "metrics.jsonl").write_text(text)
    (path / "config.yaml").write_text("steps: 30\n")
    (path / "responses.md").write_text(f"## step 30\n\n```text\n{EVIL}\n```\n")
    return path


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The address of a run's report, and of two runs'."""
    folder = tmp_path_factory.mktemp("reports")
    runs = make_run(folder / "one", (*TEXTS, EVIL)), make_run(folder / "other", TEXTS)
    assert report([str(runs[0]), "--out", str(folder / "run.html")], str) == 0
    assert report([*map(str, runs), "--out", str(folder / "runs.html")], str) == 0
    return {name: (folder / f"{name}.html").as_uri() for name in ("run", "runs")}


class Looked:
    """A page that was opened, and everything that it complained of or asked for."""

    def __init__(self, browser: Any, address: str, **context: Any) -> None:
        self.complaints: list[str] = []
        self.page = browser.new_context(**context).new_page()
        self.page.set_default_timeout(20_000)
        self.page.on("console", lambda said: self.complaints.append(f"{said.type}: {said.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))
        self.page.on("request", lambda asked: self._check(asked.url, address))
        self.page.goto(address)

    def _check(self, url: str, address: str) -> None:
        if url != address:
            self.complaints.append(f"asked for {url}")

    def told(self) -> str:
        return self.page.locator(".heat-told").inner_text()

    def close(self) -> None:
        self.page.context.close()
        assert self.complaints == []


@pytest.mark.parametrize("name", ["run", "runs"])
def test_it_opens_from_the_disk_at_every_width(browser: Any, pages: dict[str, str], name: str) -> None:
    looked = Looked(browser, pages[name])
    for width in WIDTHS:
        looked.page.set_viewport_size({"width": width, "height": 800})
        assert looked.page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
    assert looked.page.locator(".heat-response").count() == 2
    assert looked.page.locator("img").count() == 0, "markup of the run stays text"
    looked.close()


@pytest.mark.parametrize("name", ["runs", "scale", "sweep"])
def test_the_examples_open(browser: Any, repository: Path, name: str) -> None:
    file = repository / "docs" / "examples" / f"{name}.html"
    assert file.stat().st_size < 5_000_000
    looked = Looked(browser, file.as_uri())
    assert looked.page.locator("h2").count() >= 5
    looked.close()


def test_the_token_map_works_by_keyboard(browser: Any, pages: dict[str, str]) -> None:
    looked = Looked(browser, pages["run"])
    page = looked.page
    slider = page.get_by_label("Step", exact=True)
    slider.focus()
    page.keyboard.press("End")
    assert slider.get_attribute("aria-valuetext") == "step 30"
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "step 2"
    page.get_by_label("entropy", exact=True).focus()
    page.keyboard.press("Tab")
    assert looked.told().startswith("“a” · step 2 · response 1 · position 0")
    page.keyboard.press("ArrowRight")
    value = f"{entropy_of(2, 1, correct=True):.3g}"
    assert looked.told().startswith(f"“␣b” · step 2 · response 1 · position 1 · entropy {value} nats")
    page.keyboard.press("End")
    assert f"position {LENGTH - 1}" in looked.told()
    assert looked.told().endswith("not learnt from")
    page.keyboard.press("Tab")
    assert "response 2 · position 0" in looked.told(), "one stop a response"
    looked.close()


def test_the_token_map_works_by_mouse(browser: Any, pages: dict[str, str]) -> None:
    looked = Looked(browser, pages["runs"])
    page = looked.page
    token = page.locator(".heat-response").nth(1).locator("[role=option]").nth(3)
    token.hover()
    assert looked.told().startswith(
        "“<i>” · step 1 · response 2 · position 3 · entropy 1.3 nats · advantage -1"
    )
    seen = {}
    for quantity in ("entropy", "advantage", "segment"):
        page.get_by_label(quantity, exact=True).check()
        seen[quantity] = token.evaluate("token => getComputedStyle(token).backgroundColor")
    assert len(set(seen.values())) == 3
    page.get_by_label("other", exact=True).check()
    page.get_by_label("Step", exact=True).fill("5")
    assert page.locator(".heat-step output").inner_text().startswith("step ")
    page.locator(".heat-response [role=option]").first.hover()
    assert "step 1 " not in looked.told()
    looked.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Any, pages: dict[str, str], scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    looked = Looked(browser, pages["runs"], color_scheme=scheme)
    looked.page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    found = Axe().run(looked.page)
    assert found.violations_count == 0, found.generate_report()
    looked.close()


def test_without_scripts_it_says_so(browser: Any, pages: dict[str, str]) -> None:
    looked = Looked(browser, pages["run"], java_script_enabled=False)
    assert looked.page.locator("noscript p").is_visible()
    assert looked.page.get_by_text("Entropy observatory").first.is_visible()
    looked.close()
