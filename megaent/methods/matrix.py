"""Every pair of methods, with their defaults: combined, or why not."""

from __future__ import annotations

import textwrap
from itertools import combinations

from megaent.errors import ConfigError
from megaent.methods import METHODS, build_method

Pairs = dict[tuple[str, str], str]


def compatibility() -> Pairs:
    """(one, other) -> "" where they go together, else the reason; one stands before other in the registry."""
    return {pair: _refusal(pair) for pair in combinations(METHODS, 2)}


def _refusal(pair: tuple[str, str]) -> str:
    try:
        build_method({name: {} for name in pair})
    except ConfigError as error:
        return str(error)
    return ""


def render(pairs: Pairs) -> str:
    """For a terminal: a triangle of marks, then the reasons."""
    names = list(METHODS)
    width = max(map(len, names))
    lines = [" " * width + "  " + " ".join(f"{number:>2}" for number in range(1, len(names)))]
    for number, name in enumerate(names[1:], 2):
        marks = [" x" if pairs[other, name] else " ." for other in names[: number - 1]]
        lines.append(f"{name:>{width}}  {' '.join(marks)}  {number}")
    lines += ["", f". combined, x not; column 1 is {names[0]}, the others as numbered on the right", ""]
    for (one, other), reason in pairs.items():
        if reason:
            words = _without_options(reason)
            lines += textwrap.wrap(f"{one} + {other}: {words}", 110, subsequent_indent="    ")
    return "\n".join(lines)


def _without_options(reason: str) -> str:
    """The cause alone: not the list of methods before it, nor the pieces' printed options."""
    cause = reason.split("cannot be combined: ", 1)[-1]
    return cause.split(", ", 1)[0] if cause.startswith("both set") else cause.split(";", 1)[0]
