"""``responses.md`` cut back to a step, whatever the responses in it look like and whatever befell the file.

A section is a heading ``## step 3``, a line that counts its responses, then lines ``reward …`` with two
fences each, longer than any run of backticks inside. So what is inside a fence is never taken for a heading,
and a section cut short is known. (Sections without the count are of an earlier version.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from megaent.durable import replace_file
from megaent.report.metrics import step_ranges

_HEADING = re.compile(rb"## step (\d+)")
_COUNT = re.compile(rb"The first response to (\d+) of \d+ prompts")
_FENCE = re.compile(rb"(`{3,})text")


class Section(NamedTuple):
    step: int  # 0 for what precedes the first heading
    data: bytes
    is_whole: bool


def cut_responses(path: Path, step: int) -> list[str]:
    """Leave the whole sections of steps up to ``step``, atomically; a sentence for what is lost of those."""
    if not path.exists():
        return [f"{path} is not there; the responses up to step {step} are lost"] if step else []
    data = path.read_bytes()
    earlier = [section for section in split_sections(data) if section.step <= step]
    kept = [section for section in earlier if section.is_whole]
    replace_file(path, b"".join(section.data for section in kept).decode())
    there = {section.step for section in kept}
    lacking = [number for number in range(1, step + 1) if number not in there]
    if not lacking and kept == earlier:
        return []
    path.with_name(path.name + ".damaged").write_bytes(data)
    lost = f"of {step_ranges(lacking)} " if lacking else "outside the steps "
    return [f"{path} was changed by something else: what it held {lost}is kept in {path.name}.damaged alone"]


def split_sections(data: bytes) -> Iterator[Section]:
    *lines, last = data.split(b"\n")
    if _begins_heading(last):
        last = b""  # of a section of which nothing else was written
    first, step, fence, count = 0, 0, b"", None
    missing: list[int] = []  # fences of each response that are still to come
    for number, line in enumerate(lines):
        opening = _FENCE.fullmatch(line)
        if fence:
            fence = b"" if line == fence else fence
        elif opening:
            fence, missing = opening.group(1), [*missing[:-1], missing[-1] - 1] if missing else [-1]
        elif line.startswith(b"reward "):
            missing.append(2)
        elif counted := _COUNT.fullmatch(line):
            count = int(counted.group(1))
        elif heading := _HEADING.fullmatch(line):
            yield from _section(step, lines[first:number], is_whole=_are_there(missing, count))
            first, step, count, missing = number, int(heading.group(1)), None, []
    is_whole = _are_there(missing, count) and not fence and not last
    yield from _section(step, [*lines[first:], *filter(None, [last])], is_whole=is_whole)


def _are_there(missing: list[int], count: int | None) -> bool:
    return bool(missing) and not any(missing) and count in (None, len(missing))


def _begins_heading(line: bytes) -> bool:
    return b"## step ".startswith(line) or _HEADING.fullmatch(line) is not None


def _section(step: int, lines: list[bytes], *, is_whole: bool) -> Iterator[Section]:
    """Nothing at all where nothing stands before the first heading."""
    if lines:
        data = b"\n".join(lines) + b"\n"
        yield Section(step, data, is_whole and step > 0 and _is_text(data))


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
