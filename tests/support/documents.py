"""What the documents promise, in a form that tests can compare with what the code does."""

from __future__ import annotations

import re
from pathlib import Path

_METRIC = re.compile(r"^- `([^`]+)`: ", re.MULTILINE)


def documented_metrics(path: Path) -> set[str]:
    """The names that docs/metrics.md explains; each stands once, at the start of its line.

    Raises ValueError for a name explained twice.
    """
    names = _METRIC.findall(path.read_text(encoding="utf-8"))
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(
            f"{path} must explain each metric once, got {sorted(twice)} more often; remove one line"
        )
    return set(names)


def metrics_of_methods(path: Path) -> set[str]:
    """Those under "What the method did" that plain GRPO does not report."""
    section = path.read_text(encoding="utf-8").split("## What the method did\n", 1)[1].split("\n## ", 1)[0]
    return set(_METRIC.findall(section)) - {"reward/shaped", "policy_weight/mean", "entropy/sampled"}


def metrics_of_servers(path: Path) -> set[str]:
    """Those that only runs with SGLang servers report."""
    section = path.read_text(encoding="utf-8").split("## On the way to servers\n", 1)[1].split("\n## ", 1)[0]
    return set(_METRIC.findall(section))
