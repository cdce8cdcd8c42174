"""Programs judged by tests that they never see, on responses that were judged by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import psutil
import pytest
from support.isolation import given_up

from megaent.errors import ConfigError
from megaent.reward.code_answer import CodeAnswer, find_program, same_output
from megaent.reward.reward import make_reward
from megaent.sandbox.tests import read_tests
from megaent.types import Grade, Group, Prompt, Response

ADD = read_tests({"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]})
DOUBLE = read_tests(["assert double(2) == 4", "assert double('a') == 'aa'"])
PAIR = read_tests({"fn_name": "pair", "inputs": [[1]], "outputs": [[1, 1]]})
KEYS = {"add": ADD, "double": DOUBLE, "pair": PAIR}


def block(program: str) -> str:
    return f"Here it is.\n```python\n{program}\n```\n"


def group(key: str, *texts: str) -> Group:
    prompt = Prompt(id="p", tokens=(1,), text="", answer=key)
    responses = tuple(
        Response(tokens=(1,), log_prob=(0.0,), finish="stop", version=0, text=text) for text in texts
    )
    return Group(index=0, prompt=prompt, responses=responses)


@pytest.fixture(scope="module")
def reward() -> Iterator[CodeAnswer]:
    reward = CodeAnswer(timeout_s=0.5, workers=2, without=given_up())
    yield reward
    reward.close()


@pytest.mark.parametrize(
    ("text", "program"),
    [
        (block("x"), "x\n"),
        (block("x") + block("y"), "y\n"),
        ("```\nx\n```", "x\n"),
        ("```PY\nx\n```", "x\n"),
        ("<think>\n```python\nx\n```\n</think>nothing", None),
        ("<think>\n```python\nx\n```\n</think>" + block("y"), "y\n"),
        ("```python\nx", None),
        ("```json\nx\n```", None),
        ("```python\n\n```", None),
        ("print(1)", None),
    ],
)
def test_a_program_is_the_last_whole_block_of_python(text: str, program: str | None) -> None:
    assert find_program(text) == program


def test_outputs_are_equal_but_for_spaces_at_ends() -> None:
    assert same_output("1 \n2\n\n", "1\n2")
    assert not same_output("1 2", "1\n2")
    assert not same_output(" 1", "1")
    assert not same_output("", "0")


@pytest.mark.full
@pytest.mark.parametrize(
    ("key", "program", "correct", "note"),
    [
        ("add", "print(sum(map(int, input().split())))", True, ""),
        ("add", "print(3)", False, "test 2: another output"),
        ("add", "print(3)\nraise SystemExit(1)", False, "test 1: ended with code 1"),
        ("add", "1 +", False, "test 1: ended with code 1: SyntaxError: invalid syntax (program, line 1)"),
        ("add", "while True: pass", False, "test 1: timed out"),
        ("add", "while True: print('3' * 10**6)", False, "test 1: too much output"),
        ("add", "import os\nos.abort()", False, None),
        ("double", "def double(x): return x + x", True, ""),
        ("double", "def double(x): return 4", False, "call 2: another value"),
        ("double", "def double(x): return object()", False, None),
        ("double", "double = lambda x: x + x\nimport os\nos._exit(0)", False, "call 1: no value"),
        ("pair", "class Solution:\n    def pair(self, x): return (x, x)", True, ""),
        ("pair", "def pair(x): return [x, 2]", False, "call 1: another value"),
    ],
)  # fmt: skip
def test_programs(reward: CodeAnswer, key: str, program: str, correct: bool, note: str | None) -> None:
    (graded,) = reward.grade([group(KEYS[key], block(program))])
    (grade,) = graded.grades
    assert (grade.correct, grade.reward, grade.is_scored) == (correct, float(correct), True)
    assert note is None or grade.note == note


@pytest.mark.full
@pytest.mark.parametrize(
    "program",
    [
        # On the handle that values leave by: more of them than there are calls, or made up.
        "import os\nos.write(3, b'4\\n' * 10)\ndef double(x): return x + x",
        "import os\nos.write(3, b'{\"correct\": true}\\n')\nos._exit(0)",
        # An equality of its own, which stays behind in its process.
        "class Yes(str):\n    __eq__ = lambda self, other: True\ndef double(x): return Yes('no')",
        # The message that ends the wait for its limits, again.
        "import os\ntry:\n    os.write(4, b'passed')\nexcept OSError:\n    pass\ndouble = lambda x: 4",
        # The comparison, looked for in its own process.
        "import sys\nfor name in list(sys.modules):\n    vars(sys.modules[name]).update(same_output=bool)\n"
        "double = lambda x: 4",
    ],
)
def test_a_program_cannot_report_its_own_result(reward: CodeAnswer, program: str) -> None:
    (graded,) = reward.grade([group(DOUBLE, block(program))])
    assert not graded.grades[0].correct
    assert graded.grades[0].is_scored


_SEARCH = """
import gc, sys
def find():
    wanted = "".join(["7393", "9133"])
    seen, queue = set(), [sys.modules, sys._getframe(), *gc.get_objects()]
    while queue:
        thing = queue.pop()
        if id(thing) not in seen:
            seen.add(id(thing))
            if isinstance(thing, (int, str, bytes)) and wanted in str(thing):
                return int(wanted)
            queue.extend(gc.get_referents(thing))
    return len(seen)
"""


@pytest.mark.full
def test_the_expected_answer_is_nowhere_in_the_program_s_process() -> None:
    reward = CodeAnswer(timeout_s=20.0, workers=1, without=given_up())
    hidden = read_tests(["assert find() == 73939133"])
    shown = read_tests(["assert find(*[73939133][1:]) == 73939133"])
    grades = [reward.grade([group(key, block(_SEARCH))])[0].grades[0] for key in (hidden, shown)]
    reward.close()
    assert [grade.correct for grade in grades] == [False, True], "it finds what there is to be found"
    assert grades[0].note == "call 1: another value"


@pytest.mark.full
def test_a_sandbox_that_fails_is_no_verdict() -> None:
    reward = CodeAnswer(timeout_s=5.0, workers=1, without="namespaces")
    others, done = set(psutil.Process().children()), threading.Event()

    def kill_workers_at_work() -> None:
        while not done.wait(0.1):
            for worker in set(psutil.Process().children()) - others:
                if any(time.time() - program.create_time() > 0.5 for program in worker.children()):
                    worker.kill()

    killer = threading.Thread(target=kill_workers_at_work)
    killer.start()
    try:
        (graded,) = reward.grade([group(ADD, block("import time\ntime.sleep(30)"), "nothing")])
    finally:
        done.set()
        killer.join()
        reward.close()
    assert graded.grades[0].is_scored is False
    assert graded.grades[0].note == "the sandbox failed: the worker ended or did not answer"
    assert graded.grades[1] == Grade(reward=0.0, correct=False, note="no answer found")


@pytest.mark.full
def test_equal_programs_are_equal_answers(reward: CodeAnswer) -> None:
    (graded,) = reward.grade([group(ADD, block("print(3)"), block("print(3)  \n"), block("print(4)"))])
    first, second, third = (grade.answer for grade in graded.grades)
    assert first == second != third


def test_it_is_made_by_name() -> None:
    make_reward("code+0.1*boxed", timeout_s=1.0, without="namespaces").close()
    with pytest.raises(ConfigError, match="must be named from"):
        make_reward("code", without="chroot")
