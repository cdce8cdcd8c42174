"""Harmless stand-ins for hostile programs; each test shows by what they could not do that a limit holds.

Where the machine refuses namespaces the first level must be refused with words; the second stands for it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from megaent.errors import ConfigError, MissingDependency
from megaent.sandbox.isolation import GIVEN_UP, read_given_up
from megaent.sandbox.limits import Limits
from megaent.sandbox.pool import Job, Outcome, Sandbox

pytestmark = pytest.mark.full

LEVELS = ("", "namespaces")
Run = Callable[..., Outcome]


@pytest.fixture(scope="module", params=LEVELS, ids=["whole", "without namespaces"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    sandbox = Sandbox(workers=1, without=read_given_up(request.param))
    try:
        sandbox.run([Job(source="")])
    except MissingDependency:
        assert request.param == ""
        sandbox = Sandbox(workers=1, without=("namespaces",))
    yield sandbox
    sandbox.close()


@pytest.fixture
def run(sandbox: Sandbox) -> Run:
    def one(source: str, *, given: str = "", calls: tuple[str, ...] = (), **limits: float) -> Outcome:
        job = Job(source=source, input=given, calls=calls, limits=Limits(**limits))  # type: ignore[arg-type]
        (outcome,) = sandbox.run([job])
        assert not outcome.failure
        return outcome

    return one


def test_a_program_reads_writes_and_ends(run: Run) -> None:
    outcome = run(
        "import sys\nprint(int(input()) + 1, file=sys.stderr)\nprint(input())\nsys.exit(3)", given="41\né"
    )
    assert (outcome.code, outcome.output, outcome.errors) == (3, "é\n", "42\n")


def test_calls_return_values_and_not_verdicts(run: Run) -> None:
    outcome = run("def half(x):\n    return x / 2", calls=("half(3)", "half('')", "half(4)"))
    assert outcome.values == '{"float": "1.5"}\n'
    assert outcome.code == 1
    assert "TypeError" in outcome.errors


def test_threads_and_deep_recursion_are_allowed(run: Run) -> None:
    source = """
import sys, threading
sys.setrecursionlimit(10**6)
threading.stack_size(1 << 27)
def depth(n):
    return n and 1 + depth(n - 1)
threading.Thread(target=lambda: print(depth(20000))).start()
"""
    assert run(source).output == "20000\n"


# ---------------------------------------------------------------- time, memory, output


def test_a_busy_program_is_stopped_after_its_processor_time(run: Run) -> None:
    outcome = run("while True: pass", cpu_s=0.3, wall_s=60.0)
    assert outcome.stopped_for == "time"
    assert 0.3 < outcome.cpu_s < 2.0


def test_a_sleeper_is_stopped_by_the_clock_on_the_wall(run: Run) -> None:
    outcome = run("import time\nprint('begun', flush=True)\ntime.sleep(600)\nprint('woken')", wall_s=0.5)
    assert (outcome.stopped_for, outcome.output) == ("time", "begun\n")


def test_memory_ends_at_its_limit(run: Run) -> None:
    source = "held = bytearray({} << 20)\nprint(len(held) >> 20)"
    assert run(source.format(100), memory_mib=400).output == "100\n"
    outcome = run(source.format(400), memory_mib=400)
    assert (outcome.output, outcome.code) == ("", 1)
    assert "MemoryError" in outcome.errors


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_ends_at_its_limit(run: Run, stream: str) -> None:
    outcome = run(f"import sys\nwhile True: sys.{stream}.write('x' * 1000)", output_bytes=5000)
    assert outcome.stopped_for == "output"
    assert len(outcome.output) <= 5000 + 65536


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("folder", ["/", "/tmp", "/dev/shm", "/usr/lib"])
def test_no_file_is_written(run: Run, folder: str) -> None:
    name = f"{folder}/written-by-a-program"
    outcome = run(f"open({name!r}, 'w').write('x')")
    assert "OSError" in outcome.errors or "FileNotFoundError" in outcome.errors
    assert not Path(name).exists()


def test_files_are_neither_removed_renamed_nor_changed(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "kept"
    file.write_text("kept")
    for attempt in ("remove({0!r})", "rename({0!r}, {0!r} + '2')", "truncate({0!r}, 0)", "chmod({0!r}, 0)"):
        outcome = run("import os\nos." + attempt.format(str(file)))
        assert outcome.code == 1, attempt
    assert file.read_text() == "kept"
    assert os.listdir(tmp_path) == ["kept"]


def test_files_of_this_machine_cannot_be_read(tmp_path: Path) -> None:
    """With namespaces: what is given up without them says so."""
    file = tmp_path / "answers.jsonl"
    file.write_text("the key")
    job = Job(source=f"print(open({str(file)!r}).read())")
    assert "answer keys" in GIVEN_UP["namespaces"]
    whole = Sandbox(workers=1)
    try:
        (outcome,) = whole.run([job])
        told = outcome.errors
    except MissingDependency as refusal:
        outcome, told = Outcome(code=1), str(refusal)
    whole.close()
    assert (outcome.output, outcome.code) == ("", 1)
    assert "FileNotFoundError" in told or "answer keys" in told


def test_few_files_are_open_at_once(run: Run) -> None:
    outcome = run("import os\nheld = [os.dup(0) for _ in range(100)]")
    assert "Too many open files" in outcome.errors


# ---------------------------------------------------------------- processes and the network


@pytest.mark.parametrize(
    "attempt",
    [
        "import os\nos.fork()",
        "import subprocess\nsubprocess.run(['/bin/true'])",
        "import os\nos.execv('/bin/true', ['true'])",
        "import os\nos.kill(os.getppid() or 1, 0)",
        "import os\nos.setuid(0)",
        "import os\nos.chroot('/')",
        "import os\nos.memfd_create('x')",
    ],
)
def test_no_process_is_started_or_reached(run: Run, attempt: str) -> None:
    outcome = run(attempt + "\nprint('done')")
    assert outcome.output == ""
    assert "PermissionError" in outcome.errors


def test_many_threads_end_at_a_limit(run: Run) -> None:
    source = """
import threading
event, count = threading.Event(), 0
try:
    while count < 5000:
        threading.Thread(target=event.wait, daemon=True).start()
        count += 1
except (RuntimeError, MemoryError):
    print(count < 1000)
"""
    assert run(source, wall_s=30.0).output == "True\n"


def test_no_socket_is_opened_not_even_on_loopback(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        outcome = run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}))\nprint('connected')")
        assert outcome.output == ""
        assert "PermissionError" in outcome.errors
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_program_finds_neither_handles_nor_words_of_others(run: Run) -> None:
    source = """
import os, sys
for handle in range(5, 64):
    try:
        os.fstat(handle)
        print(handle)
    except OSError:
        pass
machine = {"PATH", "LANG", "LC_CTYPE", "LD_LIBRARY_PATH", "PYTHONPATH"}
print(sys.argv, sorted((name, value) for name, value in os.environ.items() if name not in machine))
"""
    given = [("OMP_NUM_THREADS", "1"), ("PYTHONHASHSEED", "0")]
    assert run(source).output == f"['program'] {given}\n"


def test_one_program_leaves_nothing_to_the_next(run: Run) -> None:
    run("import builtins, math\nbuiltins.left = 1\nmath.pi = 3")
    assert run("import math\nprint(math.pi > 3.1, 'left' in dir(__builtins__))").output == "True False\n"


# ---------------------------------------------------------------- the sandbox itself


def test_a_worker_that_is_killed_is_replaced_and_the_program_run_again() -> None:
    others = set(psutil.Process().children())
    sandbox = Sandbox(workers=1, without=("namespaces",))
    sandbox.run([Job(source="")])
    (worker,) = set(psutil.Process().children()) - others
    killer = subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -KILL {worker.pid}"])
    (outcome,) = sandbox.run([Job(source="import time\ntime.sleep(1)\nprint('whole')")])
    assert killer.wait() == 0
    assert (outcome.output, outcome.failure) == ("whole\n", "")
    assert worker.pid not in {child.pid for child in psutil.Process().children()}
    sandbox.close()


def test_workers_end_with_the_process_that_started_them() -> None:
    program = (
        "import psutil\nfrom megaent.sandbox.pool import *\n"
        "Sandbox(workers=1, without=('namespaces',)).run([Job(source='')])\n"
        "print(psutil.Process().children()[0].pid, flush=True)\nimport os\nos.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    worker = int(done.stdout)
    deadline = time.monotonic() + 30
    while psutil.pid_exists(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE


def test_an_isolation_that_the_kernel_refuses_is_an_error_that_says_what_to_do() -> None:
    """In a namespace of its own whose limit of further ones is zero, or where none can be made at all."""
    program = """
import os
from pathlib import Path
from megaent.errors import MissingDependency
from megaent.sandbox import linux
from megaent.sandbox.pool import Job, Sandbox
user = os.geteuid()
try:
    linux.unshare(linux.CLONE_NEWUSER)
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
except PermissionError:
    pass
try:
    Sandbox().run([Job(source="")])
except MissingDependency as refusal:
    print(refusal)
sandbox = Sandbox(workers=1, without=("namespaces",))
print(sandbox.run([Job(source="print('level two')")])[0].output)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "does not isolate programs: [Errno " in done.stdout, done.stderr
    assert "data.sandbox_without (namespaces: programs then can read this machine's files" in done.stdout
    assert "level two" in done.stdout


def test_what_is_given_up_must_be_known() -> None:
    assert read_given_up(" namespaces, seccomp") == ("namespaces", "seccomp")
    assert read_given_up("") == ()
    for odd in ("everything", "namespaces,namespaces"):
        with pytest.raises(ConfigError, match="namespaces: programs then can read"):
            read_given_up(odd)
