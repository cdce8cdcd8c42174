"""The report: what it says is what the files hold, it stands alone, and a run's markup stays text."""

from __future__ import annotations

import hashlib
import json
import math
from base64 import b64encode
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.table_rows import write_tables

from megaent.commands.report import report
from megaent.errors import ConfigError, DataError, MegaentError
from megaent.report import run_sections
from megaent.report.comparison_sections import CURVES
from megaent.report.metrics import render_line
from megaent.report.run_files import read_run
from megaent.report.run_sections import PANELS
from megaent.report.sweep_record import Outcome, Point, write_outcome, write_sweep

EVIL = "<script>alert(1)</script><img src=https://example.org/x onerror=alert(2)>&amp;\"'</pre></svg>"
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Every element with its attributes and own text, and a check that each one is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], "an element is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self) -> str:
        return "".join(part for parts in self.texts.values() for part in parts)


def metrics_of(step: int, *, shift: float = 0.0) -> dict[str, float]:
    return {
        "reward/mean": math.sin(step) / 3 + shift,
        "accuracy/mean": 1 / (step + 1) + shift,
        "length/mean": 10.0 + step + shift,
        "entropy/mean": 0.1 * step + shift,
        "clip/high": 0.01,
        "mismatch/mean_abs": 1e-7 * step,
        "time/generate_s": 0.5,
        "time/update_s": 0.25,
        "time/step_s": 1.0,
        "memory/generate_gib": 2.0,
        "memory/update_gib": 3.0,
    }


def make_run(path: Path, *, steps: int = 30, seed: int = 0, shift: float = 0.0, coef: float = 1.0) -> Path:
    path.mkdir(parents=True)
    lines = [render_line(step, metrics_of(step, shift=shift)) for step in range(1, steps + 1)]
    (path / "metrics.jsonl").write_text("".join(lines))
    (path / "config.yaml").write_text(f"steps: {steps}\nseed: {seed}\nmethod:\n  grpo:\n    coef: {coef}\n")
    (path / "method.txt").write_text("Method(...)\n\npolicy term: -A x ratio\n")
    (path / "command.json").write_text(
        json.dumps({"overrides": ["steps=30"], "environment": {}, "threads": 1})
    )
    return path


def page_of(*words: object, out: Path) -> Page:
    said: list[str] = []
    assert report([*map(str, words), "--out", str(out)], said.append) == 0
    assert str(out) in said[0]
    page = Page(out.read_text(encoding="utf-8"))
    check_alone(page)
    check_structure(page)
    return page


def check_alone(page: Page) -> None:
    """Nothing is loaded, nothing runs but our own script, and the page's own policy forbids the rest."""
    (policy,) = [meta for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in (policy["content"] or "")
    assert {tag for tag, _ in page.elements}.isdisjoint({"link", "img", "iframe", "object", "base"})
    check_scripts(page, policy["content"] or "")
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "xlink:href", "action", "data"):
                assert (value or "").startswith("#"), (tag, name, value)
            assert "url(" not in (value or "").replace("url(#", ""), (tag, name, value)
    assert "@import" not in "".join(page.texts["style"])
    assert "url(" not in "".join(page.texts["style"])


def check_scripts(page: Page, policy: str) -> None:
    """Data apart, at most one, which is heat_map.js and named by its hash."""
    scripts = [
        attributes for attributes in page.all("script") if attributes.get("type") != "application/json"
    ]
    assert scripts in ([], [{}])
    expected = ""
    if scripts:
        own = (Path(run_sections.__file__).parent / "heat_map.js").read_bytes()
        assert own.decode() in page.texts["script"]
        expected = f"; script-src 'sha256-{b64encode(hashlib.sha256(own).digest()).decode()}'"
    assert policy.partition("form-action 'none'")[2] == expected


def check_structure(page: Page) -> None:
    """Ids are unique and references lead to them; pictures have words, tables have captions."""
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        if (attributes.get("href") or "").startswith("#"):
            assert (attributes["href"] or "")[1:] in ids, (tag, attributes)
        for name in (attributes.get("aria-labelledby") or "").split():
            assert name in ids
        for value in attributes.values():
            if value and "url(#" in value:
                assert value.partition("url(#")[2].partition(")")[0] in ids
    assert all(svg["role"] == "img" and svg["aria-labelledby"] for svg in page.all("svg"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert len(page.all("h1")) == 1
    assert page.all("html")[0]["lang"] == "en"


def numbers(page: Page) -> set[float]:
    return {float(cell["value"] or "nan") for cell in page.all("data")}


# ---------------------------------------------------------------- one run


def test_the_numbers_are_those_of_the_metrics(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "run"), out=tmp_path / "r.html")
    shown = numbers(page)
    for step in (1, 30):
        line = metrics_of(step)
        assert {line["reward/mean"], line["accuracy/mean"], line["entropy/mean"]} <= shown
        assert line["mismatch/mean_abs"] in shown, "with every bit"
    assert {30 * 0.5, 15 / 30, 3.0} <= shown, "seconds in all, their share, the peak of memory"
    assert "policy term: -A x ratio" in page.text()
    assert "Finished, 30 steps" in page.text()
    assert "In nats a token. mean: 0.1 at step 1, 3 at step 30, between 0.1 and 3." in page.texts["desc"]
    assert {"step", "reward", "accuracy"} <= {text.strip() for text in page.texts["text"]}, "text stays text"


def test_markup_of_a_run_stays_text(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run <i>&amp;")
    (run / "responses.md").write_text(f"## step 30\n\n```text\n{EVIL}\n```\n")
    (run / "method.txt").write_text(f"{EVIL}\n\n{EVIL}\n")
    (run / "config.yaml").write_text(json.dumps({"steps": 30, EVIL: EVIL}))
    (run / "command.json").write_text(json.dumps({"overrides": [EVIL]}))
    page = page_of(run, out=tmp_path / "r.html")
    assert page.text().count(EVIL) == 6
    other = make_run(tmp_path / "other" / EVIL.replace("/", "|"), seed=1)
    page = page_of(run, other, out=tmp_path / "r.html")
    assert page.text().count(EVIL.replace("/", "|")) >= 4


def test_names_in_pictures_stay_text(tmp_path: Path) -> None:
    names = ("_<b>&\x07$x^$", "日本")
    runs = [make_run(tmp_path / name, seed=seed) for seed, name in enumerate(names)]
    page = page_of(*runs, out=tmp_path / "r.html")
    assert {"_<b>&\ufffd$x^$", "日本"} <= {text.strip() for text in page.texts["text"]}


def test_alarms_of_the_run_are_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    page = page_of(run, out=tmp_path / "r.html")
    # Entropies of 0.1 to 3 nats, five steps' mean above three times the first five's from step 12 on.
    assert "entropy explosion" in page.texts["td"]
    assert "12" in page.texts["th"]
    lines = [render_line(step, {"entropy/mean": 0.5}) for step in range(1, 30)]
    (run / "metrics.jsonl").write_text("".join(lines))
    assert "No alarm rang." in page_of(run, out=tmp_path / "r.html").text()


def test_the_observatory_is_drawn_from_the_tables(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_tables(run, steps=30, texts=("one", EVIL), prompt=EVIL, segments=True)
    page = page_of(run, out=tmp_path / "r.html")
    for title in (
        "Entropy of all tokens",
        "Entropy by correctness",
        "Entropy by difficulty of the group",
        "Entropy by position in the response",
        "Covariance of advantage and log-prob",
        "Segments by class",
        "Accuracy against entropy",
    ):
        assert title in page.texts["figcaption"]
    assert EVIL.replace(" ", "␣") in page.texts["th"], "among the tokens by entropy"
    (data,) = [text for text in page.texts["script"] if text.startswith("{")]
    assert json.loads(data)["runs"][0]["steps"][0]["responses"][0]["prompt"] == EVIL


def test_observatories_stand_beside_each_other(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, coef=coef) for name, coef in (("a", 1), ("b", 2), ("c", 3), ("d", 4))]
    for run in runs:
        write_tables(run, steps=30)
    page = page_of(*runs, out=tmp_path / "r.html")
    captions = page.texts["figcaption"]
    assert [f"{name}: Entropy by correctness" in captions for name in "abcd"] == [True, True, True, False]
    assert "the first 3 runs that have tables; 1 are left out" in page.text()


def test_damaged_tables_are_told_and_the_rest_is_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_tables(run, steps=30)
    (run / "tables" / "tokens" / "00000001-00000015.parquet").write_bytes(b"PAR1 not")
    page = page_of(run, out=tmp_path / "r.html")
    assert "tables/tokens/00000001-00000015.parquet cannot be read" in page.text()
    assert "Entropy by position in the response" in page.texts["figcaption"]


def test_an_evaluation_before_and_after_is_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    evaluation = {"accuracy": 0.125, "accuracy_low": 0.0625, "accuracy_high": 0.25, "mean_length": 7.5}
    after = evaluation | {"accuracy": 0.8125}
    (run / "summary.json").write_text(json.dumps({"before": evaluation, "after": after, "seconds": 61}))
    page = page_of(run, out=tmp_path / "r.html")
    assert {0.125, 0.8125, 0.0625, 7.5} <= numbers(page)
    assert "1m01s in all" in page.text()


def test_a_run_that_is_still_writing_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=12)
    (run / "config.yaml").write_text("steps: 40\n")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "rew')
    page = page_of(run, out=tmp_path / "r.html")
    assert "not finished: 12 of 40 steps; the last ended" in page.text()
    assert "The last line of metrics.jsonl is cut and left out" in page.text()


def test_damage_is_told_and_the_rest_is_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", steps=6)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_bytes(
        "\n".join([*lines[:2], "garbage \x00", '{"step": NaN}', *lines[3:], ""]).encode()
    )
    (run / "config.yaml").write_text("steps: [")
    (run / "command.json").write_bytes(b"\xff\xfe{")
    (run / "summary.json").write_text('{"before": 3}')
    page = page_of(run, out=tmp_path / "r.html")
    text = page.text()
    assert "that are no step's and are left out: 2" in text
    assert "lacks step 3" in text
    for name in ("config.yaml", "command.json", "summary.json"):
        assert f"{name} cannot be read and is left out" in text
    assert metrics_of(6)["reward/mean"] in numbers(page)


def test_a_run_before_its_first_step(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    (run / "metrics.jsonl").unlink()
    assert "no step has ended" in page_of(run, out=tmp_path / "r.html").text()
    (run / "metrics.jsonl").write_text("")
    assert "holds no finished step" in page_of(run, out=tmp_path / "r.html").text()


@pytest.mark.parametrize("kind", ["missing", "empty", "file"])
def test_what_is_no_run_is_one_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "it"
    if kind == "empty":
        path.mkdir()
    if kind == "file":
        path.write_text("x")
    with pytest.raises(DataError, match=r"no directory|holds no run"):
        report([str(path), "--out", str(tmp_path / "r.html")], print)
    assert not (tmp_path / "r.html").exists()


def test_a_long_run_stays_small(tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    page_of(make_run(tmp_path / "run", steps=10_000), out=out)
    assert out.stat().st_size < 1_000_000


def test_a_report_is_made_again_and_nothing_else_is_written_over(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert report([str(run)], print) == 0
    assert report([str(run)], print) == 0
    assert (run / "report.html").is_file()
    thesis = tmp_path / "thesis.html"
    thesis.write_text("years of work")
    with pytest.raises(ConfigError, match="is no report"):
        report([str(run), "--out", str(thesis)], print)
    assert thesis.read_text() == "years of work"


# ---------------------------------------------------------------- several runs


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    shifts = (0.25, 0.5, 0.75)
    runs = [make_run(tmp_path / f"a{seed}", seed=seed, shift=seed) for seed in range(3)]
    runs += [
        make_run(tmp_path / f"b{seed}", seed=seed, shift=seed + shift, coef=2.0)
        for seed, shift in enumerate(shifts)
    ]
    page = page_of(*runs, out=tmp_path / "r.html")
    # Between seeds lengths differ by 1; paired, the differences are the shifts alone.
    assert "+0.5 ± 0.6" in page.texts["td"]
    assert f"{4.302653 * 0.25 / math.sqrt(3):.1f}" == "0.6"
    headings = page.texts["th"]
    assert "method.grpo.coef" in headings
    assert "seed" in headings
    assert "steps" not in headings, "what is the same in all is no difference"


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    runs = make_run(tmp_path / "a"), make_run(tmp_path / "b", shift=0.5, coef=2.0)
    page = page_of(*runs, out=tmp_path / "r.html")
    assert "+0.5" in page.texts["td"]
    assert "the difference may be chance" in page.text()


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = make_run(tmp_path / "one" / "run"), make_run(tmp_path / "two" / "run", coef=2.0)
    page = page_of(*runs, out=tmp_path / "r.html")
    assert {"one/run", "two/run"} <= set(page.texts["th"])


# ---------------------------------------------------------------- a sweep


def make_sweep(folder: Path) -> Path:
    points = [
        Point(words=(f"optim.lr={lr}", f"seed={seed}"), folder=f"lr{lr}s{seed}")
        for lr in (1, 2)
        for seed in (0, 1)
    ]
    for point, shift in zip(points[:3], (0.0, 0.5, 0.0), strict=True):
        make_run(folder / point.folder, shift=shift)
        write_outcome(folder / point.folder, Outcome(state="finished", seconds=3.0))
    failed = Outcome(state="failed", exit_code=7, message=f"the loss is nan {EVIL}", seconds=2.0)
    write_outcome(folder / points[3].folder, failed)
    write_sweep(folder, ["experiment=demo"], points)
    return folder


def test_a_sweep_shows_its_table_and_what_failed(tmp_path: Path) -> None:
    page = page_of(make_sweep(tmp_path / "sweep"), out=tmp_path / "r.html")
    # Lengths of the last three of 30 steps: 39 and 39.5; t(0.975, 1) * 0.5 / 2 = 3.2.
    assert "39.2 ± 3.2" in page.texts["td"]
    assert {"2 of 2", "1 of 2", "failed, unfinished"} & set(page.texts["td"]) == {"2 of 2", "1 of 2"}
    assert f"the loss is nan {EVIL}" in page.texts["td"]
    assert "experiment=demo" in page.text()


@pytest.mark.parametrize(
    "content", ["", "[]", '{"format": 99}', '{"format": 1, "common": [], "points": [{}]}']
)
def test_a_damaged_sweep_is_one_error(tmp_path: Path, content: str) -> None:
    folder = make_sweep(tmp_path / "sweep")
    (folder / "sweep.json").write_text(content)
    with pytest.raises(MegaentError, match=r"sweep\.json"):
        report([str(folder)], print)


def test_a_sweep_never_leads_out_of_its_folder(tmp_path: Path) -> None:
    folder = make_sweep(tmp_path / "sweep")
    write_sweep(folder, [], [Point(words=("seed=0",), folder="../elsewhere")])
    with pytest.raises(DataError, match="outside the sweep"):
        report([str(folder)], print)


# ---------------------------------------------------------------- documents


def test_pictures_are_drawn_from_documented_metrics(repository: Path) -> None:
    text = (repository / "docs" / "metrics.md").read_text()
    names = {metric for panel in PANELS for metric, _ in panel.curves} | {metric for _, _, metric in CURVES}
    assert all(f"- `{name}`:" in text for name in names)


def test_checkpoints_are_listed_with_their_size(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    folder = run / "checkpoints" / "step-00000030"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    (folder / "weights").write_bytes(b"x" * 998)
    (run / "checkpoints" / ".step-00000031.partial").mkdir()
    (checkpoint,) = read_run(run).checkpoints
    assert (checkpoint.step, checkpoint.num_bytes) == (30, 1000)
    assert 0.001 in numbers(page_of(run, out=tmp_path / "r.html"))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([{"step": 1, "reward/mean": 1e308}, {"step": 2, "reward/mean": -1e308}], "In per response"),
        ([{"step": 1, "entropy/mean": 10**400}], "that are no step's and are left out: 1"),
        ([{"step": 10**12, "entropy/mean": 1}], "lacks 999999999999 of 1000000000000 steps"),
        ([{"step": 1, "time/step_s": 0, "time/update_s": 0}], "What it took"),
        ([{"step": 3, "evaluate/accuracy": 0.5, "evaluate/accuracy_low": 0.4}], "lacks steps 1 to 2"),
        ([{"step": 1}], "How it went"),
    ],
)
def test_what_no_run_writes_is_no_traceback(tmp_path: Path, lines: list[dict[str, float]], said: str) -> None:
    run = make_run(tmp_path / "run")
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert said in page_of(run, out=tmp_path / "r.html").text()
