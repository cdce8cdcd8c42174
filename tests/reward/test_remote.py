"""Grades over HTTP from a real server process: in order, in batches, within limits, never for a failure."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from megaent.errors import ConfigError
from megaent.reward.remote import RemoteVerifier
from megaent.reward.reward import make_reward
from megaent.types import Grade, Group, Prompt, Response

pytestmark = pytest.mark.full

SERVER = Path(__file__).with_name("stand_in_verifier.py")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    process = subprocess.Popen(
        [sys.executable, str(SERVER), str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    yield f"http://127.0.0.1:{int(process.stdout.readline())}/grade", process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture
def url(server: tuple[str, subprocess.Popen[str]]) -> str:
    return server[0]


def group(question: str, *texts: str, key: str = "yes") -> Group:
    prompt = Prompt(id=f"p/{question}", tokens=(), text=question, answer=key)
    responses = tuple(Response(tokens=(), log_prob=(), finish="stop", version=0, text=text) for text in texts)
    return Group(index=0, prompt=prompt, responses=responses)


def grades(reward: RemoteVerifier, *groups: Group) -> list[Grade]:
    return [grade for graded in reward.grade(groups) for grade in graded.grades]


def asked(folder: Path) -> list[list[str]]:
    return [json.loads(line) for line in (folder / "asked").read_text().splitlines()]


def test_grades_come_back_in_order_whatever_the_batch(url: str, tmp_path: Path) -> None:
    texts = [str(n) for n in range(23)]
    reward = RemoteVerifier(url=url, batch=5)
    said = grades(reward, group("a", *texts[:9], key="3"), group("b", *texts[9:], key="10"))
    assert [grade.answer for grade in said] == texts
    assert [place for place, grade in enumerate(said) if grade.correct] == [3, 10]
    assert sorted(map(len, asked(tmp_path))) == [3, 5, 5, 5, 5]
    assert reward.grade([]) == []


def test_a_busy_server_is_asked_again(url: str, tmp_path: Path) -> None:
    assert grades(RemoteVerifier(url=url), group("busy once", "yes")) == [
        Grade(reward=1.0, correct=True, answer="yes")
    ]
    assert len(asked(tmp_path)) == 2


def test_only_what_failed_is_asked_again(url: str, tmp_path: Path) -> None:
    said = grades(RemoteVerifier(url=url), group("", "yes", "fail once", "fail", "no"))
    assert asked(tmp_path) == [["yes", "fail once", "fail", "no"], ["fail once", "fail"], ["fail"]]
    assert [grade.is_scored for grade in said] == [True, True, False, True]
    assert said[2].note == "the verifier failed: no memory"


@pytest.mark.parametrize(
    ("question", "note"),
    [
        ("always busy", "answered with 503: busy"),
        ("no words", "no usable answer"),
        ("too few", "1 grades were expected"),
        ("too much", "an answer of more than 16777216 bytes"),
        ("not finite", "reward must be a finite number"),
        ("slow", "no answer within 0.3 s"),
        ("die", "Error"),
    ],
)
def test_a_server_that_fails_gives_no_verdict(url: str, tmp_path: Path, question: str, note: str) -> None:
    reward = RemoteVerifier(url=url, timeout_s=0.3 if question == "slow" else 30.0)
    begun = time.monotonic()
    (grade,) = grades(reward, group(question, "yes"))
    assert (grade.is_scored, grade.correct, grade.reward) == (False, False, 0.0)
    assert grade.note.startswith("the verifier failed: ")
    assert note in grade.note
    assert len(asked(tmp_path)) == (1 if question == "die" else 3)
    assert time.monotonic() - begun > 1.4, "it waits longer before each try"


def test_a_refusal_is_an_error_of_the_configuration(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="422: no such field; it must take the requests"):
        RemoteVerifier(url=url).grade([group("refuse", "yes")])
    assert len(asked(tmp_path)) == 1


def test_a_key_is_sent_and_not_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEGAENT_VERIFIER_KEY", "secret")
    reward = make_reward("remote", url=url)
    assert reward.grade([group("who", "yes")])[0].grades[0].note == "Bearer secret"
    with pytest.raises(ConfigError) as refused:
        RemoteVerifier(url="http://user:secret@127.0.0.1/")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["", "127.0.0.1:80", "ftp://127.0.0.1", "http://"])
def test_an_address_must_be_one(url: str) -> None:
    with pytest.raises(ConfigError, match=r"such as http://127\.0\.0\.1:8000/grade"):
        RemoteVerifier(url=url)
