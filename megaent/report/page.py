"""A page of HTML that stands alone: what comes from a run is escaped here and never taken as markup.

The page loads nothing, and runs nothing but the scripts of its sections, each named by its hash, which its
own Content-Security-Policy holds it to.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
GENERATOR = "megaent report"
NUM_COLOURS = 8
_LIGHT = ("#1f5fa8", "#b3432e", "#23784a", "#7a4fa3", "#a0620b", "#0b7285", "#a3336f", "#555555")
_DARK = ("#7fb4f0", "#f0907c", "#72d09b", "#c3a2ea", "#e3ad5c", "#66cbd9", "#ee92c2", "#bbbbbb")


@dataclass(frozen=True, slots=True)
class Number:
    """A cell that shows a number in few digits and holds all of them, in ``<data value=…>``."""

    value: float
    form: str = "{:.4g}"


Cell = str | Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading and what stands below it; ``parts`` are HTML that this module or ``svg`` made."""

    heading: str
    parts: tuple[str, ...]
    script: str = ""  # of this package, never made of what a run says
    style: str = ""


def render_page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole file. ``title`` and the headings are plain text, ``lead`` is HTML."""
    names = [f"s{number}" for number in range(1, len(sections) + 1)]
    links = "".join(
        f'<li><a href="#{name}">{escape(section.heading)}</a></li>'
        for name, section in zip(names, sections, strict=True)
    )
    body = "\n".join(
        f'<section aria-labelledby="{name}">\n<h2 id="{name}">{escape(section.heading)}</h2>\n'
        + "\n".join(section.parts)
        + "\n</section>"
        for name, section in zip(names, sections, strict=True)
    )
    scripts = list(dict.fromkeys(section.script for section in sections if section.script))
    styles = dict.fromkeys(section.style for section in sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="{GENERATOR}">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{_style()}{"".join(styles)}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header>
<h1>{escape(title)}</h1>
{lead}
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main id="main">
{body}
</main>
{"".join(f"<script>{script}</script>" for script in scripts)}
</body>
</html>
"""


def _policy(scripts: Sequence[str]) -> str:
    if not scripts:
        return _POLICY
    digests = [b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    return f"{_POLICY}; script-src " + " ".join(f"'sha256-{digest}'" for digest in digests)


def table(
    headings: Sequence[str], rows: Sequence[Sequence[Cell]], *, caption: str, has_row_heads: bool = True
) -> str:
    """With a caption and real heads; wide ones scroll by themselves, by keyboard too."""
    heads = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    body = "\n".join(_row(row, has_row_heads) for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">\n<table>\n'
        f"<caption>{escape(caption)}</caption>\n<thead><tr>{heads}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table>\n</div>"
    )


def _row(row: Sequence[Cell], has_head: bool) -> str:
    cells = [_cell(cell, is_head=has_head and index == 0) for index, cell in enumerate(row)]
    return f"<tr>{''.join(cells)}</tr>"


def _cell(cell: Cell, *, is_head: bool) -> str:
    tag, scope = ("th", ' scope="row"') if is_head else ("td", "")
    if isinstance(cell, Number):
        return f'<{tag} class="number"{scope}>{number(cell)}</{tag}>'
    return f"<{tag}{scope}>{escape(cell)}</{tag}>"


def number(cell: Number) -> str:
    return f'<data value="{cell.value!r}">{escape(cell.form.format(cell.value))}</data>'


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def notes(sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="notes">{items}</ul>'


def preformatted(text: str, *, label: str) -> str:
    return f'<pre tabindex="0" role="region" aria-label="{escape(label)}">{escape(text)}</pre>'


def folded(summary: str, *parts: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>\n" + "\n".join(parts) + "\n</details>"


def figures(parts: Sequence[str]) -> str:
    return '<div class="figures">\n' + "\n".join(parts) + "\n</div>"


def wide(part: str, *, label: str) -> str:
    """What needs the width of a desk scrolls by itself on a narrower screen, by keyboard too."""
    inner = f'<div style="min-width:44rem">{part}</div>'
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">{inner}</div>'


def _style() -> str:
    light = "".join(f"--c{i}:{colour};" for i, colour in enumerate(_LIGHT))
    dark = "".join(f"--c{i}:{colour};" for i, colour in enumerate(_DARK))
    return (
        f":root{{--ground:#fff;--ink:#1b1b1b;--faint:#595959;--rule:#d0d0d0;--link:#0b4f9e;{light}}}"
        "@media (prefers-color-scheme:dark){"
        f":root{{--ground:#15181c;--ink:#e8e8e8;--faint:#a8adb3;--rule:#41464d;--link:#8fc1ff;{dark}}}}}"
        "body{margin:0 auto;max-width:76rem;padding:1rem;background:var(--ground);color:var(--ink);"
        "font:16px/1.5 system-ui,sans-serif}"
        "h1,h2,h3{line-height:1.2;overflow-wrap:anywhere}a{color:var(--link)}"
        "p{max-width:48rem}nav ul{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;padding:0;list-style:none}"
        ".skip{position:absolute;left:-999rem}.skip:focus{left:1rem}"
        ".figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,21rem),1fr));gap:1rem}"
        "figure{margin:0}figcaption{font-weight:600}"
        "svg{width:100%;height:auto;color:var(--ink);stroke-linejoin:round;stroke-linecap:butt}"
        ".scroll{overflow-x:auto;max-width:100%}table{border-collapse:collapse;margin:.5rem 0}"
        "caption{text-align:left;color:var(--faint);padding-bottom:.2rem}"
        "th,td{border-bottom:1px solid var(--rule);padding:.2rem .7rem .2rem 0;text-align:left;"
        "vertical-align:top;font-variant-numeric:tabular-nums;overflow-wrap:break-word;max-width:40rem}"
        "tbody th{font-weight:500}.number{text-align:right}"
        "pre{overflow:auto;max-height:30rem;border:1px solid var(--rule);padding:.6rem;white-space:pre-wrap;"
        "overflow-wrap:anywhere}summary{cursor:pointer}.notes{border-left:4px solid var(--c1);}"
        ":focus-visible{outline:3px solid var(--link);outline-offset:2px}"
    )
