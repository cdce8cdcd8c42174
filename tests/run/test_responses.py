"""responses.md cut back to a step, whatever is in it: responses like headings, cuts, other encodings."""

from __future__ import annotations

from pathlib import Path

import pytest

from megaent.run.directory import _fenced
from megaent.run.responses import cut_responses

TRICKY = (
    "## step 2",
    "fine\n## step 1\nreward 1",
    "```text\n## step 3\n```",
    "````\n## step 9\n```text",
    "``````",
    "",
    "\n\n",
    "line\r\n## step 7\r\n",
    "\u2028## step 4\u2028é",
)


def section(step: int, responses: tuple[str, ...] = TRICKY) -> str:
    lines = [f"## step {step}\n", f"The first response to {len(responses)} of 64 prompts\n"]
    for response in responses:
        lines += ["reward 1 · 3 tokens · stop · entropy 0.100 nats · answer '3'"]
        lines += [_fenced(f"question\n{response}"), _fenced(response)]
    return "\n".join(lines) + "\n"


def written(path: Path, *steps: int) -> bytes:
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("".join(map(section, steps)))
    return path.read_bytes()


@pytest.mark.parametrize("step", range(4))
def test_a_response_like_a_heading_is_no_heading(tmp_path: Path, step: int) -> None:
    whole = written(tmp_path / "responses.md", 1, 2, 3)
    expected = written(tmp_path / "expected.md", *range(1, step + 1))
    assert cut_responses(tmp_path / "responses.md", step) == []
    assert (tmp_path / "responses.md").read_bytes() == expected
    assert whole.startswith(expected)


def test_a_cut_anywhere_keeps_the_whole_sections_and_tells_of_the_others(tmp_path: Path) -> None:
    path, damaged = tmp_path / "responses.md", tmp_path / "responses.md.damaged"
    data, first = written(path, 1, 2), len(section(1).encode())
    for cut in [*range(0, first, 7), *range(first, len(data), 5), len(data) - 1]:
        path.write_bytes(data[:cut])
        damaged.unlink(missing_ok=True)
        (told,) = cut_responses(path, 2)
        assert ("steps 1 to 2" if cut < first else "of step 2 ") in told
        assert path.read_bytes() in (b"", data[:first])
        assert damaged.read_bytes() == data[:cut]
        path.write_bytes(data[:cut])
        assert len(cut_responses(path, 1)) == (cut < first), "what a kill cut of a later step is no loss"


def test_a_section_of_an_earlier_version_has_no_count_and_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "responses.md"
    earlier = "".join(line for line in section(1).splitlines(keepends=True) if "of 64 prompts" not in line)
    path.write_text(earlier + section(2), newline="")
    assert cut_responses(path, 1) == []
    assert path.read_bytes() == earlier.encode()


def test_another_encoding_is_told_and_kept_aside(tmp_path: Path) -> None:
    path = tmp_path / "responses.md"
    text = written(path, 1, 2).decode()
    path.write_bytes(text.encode("utf-16"))
    (told,) = cut_responses(path, 2)
    assert "steps 1 to 2 is kept in responses.md.damaged alone" in told
    assert path.read_bytes() == b""
    path.write_bytes(section(1).encode() + section(2).replace("·", "\udce9").encode(errors="surrogateescape"))
    assert "of step 2 " in cut_responses(path, 2)[0]
    assert path.read_bytes() == section(1).encode()


def test_what_stands_before_the_first_step_goes_aside(tmp_path: Path) -> None:
    path = tmp_path / "responses.md"
    path.write_text("a note\n" + section(1, ("x",)))
    (told,) = cut_responses(path, 1)
    assert "was changed by something else" in told
    assert path.read_text() == section(1, ("x",))


def test_a_file_that_is_gone_is_told(tmp_path: Path) -> None:
    assert cut_responses(tmp_path / "responses.md", 0) == []
    assert "is not there; the responses up to step 3" in cut_responses(tmp_path / "responses.md", 3)[0]
