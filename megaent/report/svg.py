"""Charts as SVG inside a page: drawn by matplotlib, with text as text and the page's own colours."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

from megaent.errors import MissingDependency
from megaent.report.curves import smooth
from megaent.report.page import NUM_COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_POINTS = 400
"""Points of a line; of more steps each point is the mean over as many neighbours as it takes."""

_FARTHEST = 1e100  # of a value that is drawn: axes overflow before numbers do
_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}"
# Colours that nothing else has; each becomes one of the page's.
_COLOURS = [f"#c0ffe{index}" for index in range(NUM_COLOURS)]
_INK, _RULE = "#c0ffea", "#c0ffeb"
_OF_PAGE = {colour: f"var(--c{index})" for index, colour in enumerate(_COLOURS)}
_OF_PAGE |= {_INK: "currentColor", _RULE: "var(--rule)"}
_DASHES = ("solid", "dashed", "dashdot", "dotted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One curve; ``low`` and ``high`` are the ends of an interval, where there is one."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What every picture has; ids begin with ``name``, ``words`` are for who cannot see it."""

    name: str
    title: str
    unit: str  # of the vertical axis
    words: str
    across: str = "step"
    top: float | None = None  # of the vertical axis, where several pictures share it
    doubling: bool = False  # each doubling takes the same room across, and every value has its mark


def line_chart(name: str, lines: Sequence[Line], *, title: str, unit: str, words: str) -> str:
    """Curves over the steps: faint are the steps, full is their trend where a line has 20 points or more."""
    return curves_chart(Frame(name=name, title=title, unit=unit, words=words), lines)


def curves_chart(frame: Frame, lines: Sequence[Line]) -> str:
    """An ``<svg>`` of curves over anything."""

    def draw(axes: Axes) -> None:
        for index, line in enumerate(lines):
            _draw(axes, line, _COLOURS[index % NUM_COLOURS], _DASHES[index % len(_DASHES)])
        _set_range(axes, lines)
        if frame.top is not None:
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]), top=frame.top)
        if len(lines) > 1:
            axes.legend(fontsize=8, frameon=False, labelcolor=_INK)
        if frame.doubling:
            axes.set_xscale("log", base=2)

    return _picture(frame, draw, marks=sorted({step for line in lines for step in line.steps}))


def points_chart(frame: Frame, points: Sequence[tuple[float, float]], line: Line) -> str:
    """An ``<svg>`` of single points, the later the fuller, and a curve through them."""

    def draw(axes: Axes) -> None:
        for index, part in enumerate(_chunks(points, 8)):
            shade = 0.2 + 0.6 * (index + 1) / 8
            axes.plot(
                *zip(*part, strict=True), ".", color=_COLOURS[0], alpha=shade, markersize=4, markeredgewidth=0
            )
        axes.plot(line.steps, line.values, color=_COLOURS[1], linewidth=1.7)

    return _picture(frame, draw, is_counted=False)


def density_chart(frame: Frame, cells: Sequence[Cell], *, top: float) -> str:
    """An ``<svg>`` of cells, the fuller the larger their share; the vertical axis is a square root."""

    def draw(axes: Axes) -> None:
        from matplotlib.collections import PolyCollection
        from matplotlib.colors import to_rgba

        corners = [[(c.left, c.low), (c.right, c.low), (c.right, c.high), (c.left, c.high)] for c in cells]
        most = max(cell.share for cell in cells)
        shades = [to_rgba(_COLOURS[0], max(0.04, round((cell.share / most) ** 0.5, 2))) for cell in cells]
        axes.add_collection(PolyCollection(corners, facecolors=shades, linewidths=0))
        axes.set_yscale("function", functions=(_root, _square))
        axes.set_xlim(min(cell.left for cell in cells), max(cell.right for cell in cells))
        axes.set_ylim(0, top)
        axes.set_yticks([tick for tick in (0, 0.02, 0.1, 0.3, 0.7, 1.5, 3, 6, 12) if tick <= top])

    return _picture(frame, draw)


def marks_chart(frame: Frame, marks: Sequence[Mark], front: Sequence[Mark]) -> str:
    """An ``<svg>`` of labelled points with intervals to both sides; those of ``front`` are joined.

    The horizontal axis is logarithmic where the points are far apart.
    """
    is_wide = min(mark.x for mark in marks) > 0 and max(m.x for m in marks) > 3 * min(m.x for m in marks)

    def draw(axes: Axes) -> None:
        if is_wide:
            axes.set_xscale("log", subs=[])
        joined = sorted(front, key=lambda mark: mark.x)
        axes.plot([m.x for m in joined], [m.y for m in joined], color=_COLOURS[1], linewidth=1.2)
        for mark in marks:
            colour = _COLOURS[1] if mark in front else _COLOURS[0]
            axes.errorbar(
                mark.x, mark.y, xerr=mark.x_half, yerr=mark.y_half, fmt="o", color=colour, markersize=4,
                elinewidth=0.8, alpha=0.7,
            )  # fmt: skip
            axes.annotate(
                mark.label,
                (mark.x, mark.y),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=8,
                color=_INK,
            )

    return _picture(frame, draw, is_counted=False, is_logarithmic=is_wide)


def parallel_chart(frame: Frame, scales: Sequence[Scale], settings: Sequence[Sequence[float]]) -> str:
    """An ``<svg>`` of upright scales side by side and a line a setting through its place on each.

    ``settings`` hold one value of [0, 1] a scale; the first of them is drawn fuller than the others.
    """

    def draw(axes: Axes) -> None:
        across = range(len(scales))
        for number, setting in reversed(list(enumerate(settings))):
            best = number == 0
            axes.plot(
                across, setting, color=_COLOURS[1 if best else 0], alpha=1.0 if best else 0.35,
                linewidth=2.2 if best else 1.0,
            )  # fmt: skip
        for place, scale in enumerate(scales):
            axes.axvline(place, color=_INK, linewidth=0.8)
            for value, text in scale.ticks:
                axes.annotate(
                    _plain(text), (place, value), xytext=(3, 3), textcoords="offset points", fontsize=7,
                    color=_INK,
                )  # fmt: skip
        axes.set_ylim(-0.03, 1.1)
        axes.set_yticks([])

    return _picture(frame, draw, named=[scale.name for scale in scales], width_in=8.8)


class Scale(NamedTuple):
    name: str
    ticks: Sequence[tuple[float, str]]  # place in [0, 1], and what is written there


class Mark(NamedTuple):
    label: str
    x: float
    y: float
    x_half: float  # half-widths of the intervals; 0 for none
    y_half: float


class Cell(NamedTuple):
    left: float
    right: float
    low: float
    high: float
    share: float


def _root(value: Any) -> Any:
    return abs(value) ** 0.5


def _square(value: Any) -> Any:
    return value**2


def _chunks(points: Sequence[tuple[float, float]], count: int) -> list[Sequence[tuple[float, float]]]:
    size = max(1, -(-len(points) // count))
    return [points[first : first + size] for first in range(0, len(points), size)]


def _picture(
    frame: Frame,
    draw: Callable[[Axes], None],
    *,
    is_counted: bool = True,
    is_logarithmic: bool = False,
    marks: Sequence[float] = (),
    named: Sequence[str] = (),
    width_in: float = 4.4,
) -> str:
    """``is_counted``: the horizontal axis has whole numbers. ``marks`` are its own where it doubles.

    ``named``: it has these words at 0, 1, 2, … instead of numbers.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
        from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, StrMethodFormatter
    except ImportError as error:
        raise MissingDependency("matplotlib is not installed; run `pip install 'megaent[train]'`") from error
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": frame.name,
        "path.simplify": True,
        "text.parse_math": False,
    }
    settings |= {"font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"]}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name in a script that the measuring font lacks
        figure = Figure(figsize=(width_in, 2.9), layout="constrained", facecolor="none")
        axes = figure.subplots()
        draw(axes)
        axes.set_xlabel(frame.across, fontsize=9, color=_INK)
        axes.set_ylabel(frame.unit, fontsize=9, color=_INK)
        axes.set_facecolor("none")
        axes.tick_params(labelsize=8, colors=_INK)
        axes.grid(axis="y", color=_RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_INK)
        counted = MaxNLocator(integer=is_counted, nbins=6)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if is_logarithmic else counted)
        if frame.doubling:
            axes.xaxis.set_major_locator(FixedLocator(marks))
            axes.minorticks_off()
        if is_logarithmic or frame.doubling:
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        if named:
            axes.set_xticks(range(len(named)), [_plain(name) for name in named])
        axes.margins(x=0.01)
        file = io.BytesIO()
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    return _inline(file.getvalue(), frame.name, title=frame.title, words=frame.words)


def _draw(axes: Axes, line: Line, colour: str, dashes: str) -> None:
    steps, values = list(line.steps), list(line.values)
    trend = smooth(values) if len(values) >= 20 else values
    if line.low:
        axes.fill_between(
            *_thin(steps, line.low), _thin(steps, line.high)[1], color=colour, alpha=0.2, linewidth=0
        )
    elif trend is not values:
        axes.plot(*_thin(steps, values), color=colour, alpha=0.3, linewidth=0.7)
    marker = "." if len(values) < 20 else None
    axes.plot(
        *_thin(steps, trend),
        color=colour,
        linewidth=1.7,
        linestyle=dashes,
        marker=marker,
        label=_plain(line.label),
    )


def _plain(label: str) -> str:
    """Without what XML cannot hold; matplotlib would hide a label that begins with an underscore."""
    return "\u200a" + "".join(letter if letter.isprintable() else "\ufffd" for letter in label)


def _set_range(axes: Axes, lines: Sequence[Line]) -> None:
    """From 0 where nothing is below it and the curves come near it."""
    values = [value for line in lines for value in (*line.values, *line.low, *line.high)]
    if 0 <= min(values) <= max(values) / 4:
        axes.set_ylim(bottom=0, top=None if max(values) > 0 else 1)


def _thin(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Means over neighbours, so that at most ``MOST_POINTS`` are left."""
    values = [max(-_FARTHEST, min(_FARTHEST, value)) for value in values]
    size = -(-len(steps) // MOST_POINTS)
    if size <= 1:
        return list(steps), list(values)
    starts = range(0, len(steps), size)
    return (
        [_mean(steps[start : start + size]) for start in starts],
        [_mean(values[start : start + size]) for start in starts],
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _inline(data: bytes, name: str, *, title: str, words: str) -> str:
    """Matplotlib's file as an element of a page: ids of its own, no metadata, no style sheet."""
    root = ElementTree.fromstring(data)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}style", f"{_SVG}metadata"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            element.attrib[key.replace(_XLINK, "")] = _attribute(key, value, name)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title {name}-words"}
    for position, (tag, text) in enumerate((("title", title), ("desc", words))):
        label = ElementTree.Element(tag, {"id": f"{name}-{'title' if tag == 'title' else 'words'}"})
        label.text = text
        root.insert(position, label)
    return ElementTree.tostring(root, encoding="unicode")


def _attribute(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key.endswith("href"):
        return value.replace("#", f"#{name}-", 1)
    if key == "d":
        return re.sub(r"-?\d+\.\d+", lambda match: f"{float(match[0]):.1f}", " ".join(value.split()))
    value = re.sub(r"url\(#", f"url(#{name}-", value)
    for ours, of_page in _OF_PAGE.items():
        value = value.replace(ours, of_page)
    return value
