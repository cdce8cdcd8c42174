"""The checkpoint store against kills at every instant, flipped bits, full disks and leftovers."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from megaent.errors import CheckpointError
from megaent.run.checkpoint import CheckpointStore, digest, newest_valid, read_state, save_checkpoint, verify
from megaent.run.manifest import FileDigest, read_manifest, render_manifest
from megaent.types import Alone

CONTENT = {"__0_0.distcp": 3000, "__1_0.distcp": 2048, ".metadata": 77}


class ThreadRank:
    """A rank that is a thread; the ranks of one world share ``board`` and ``barrier``."""

    def __init__(self, rank: int, board: list, barrier: threading.Barrier) -> None:
        self.rank, self.world_size = rank, len(board)
        self._board, self._barrier = board, barrier

    def gather_everywhere(self, value: object) -> list:
        self._board[self.rank] = value
        self._barrier.wait(timeout=30)
        everyone = list(self._board)
        self._barrier.wait(timeout=30)
        return everyone


def on_ranks(size: int, call: Callable[[ThreadRank], object]) -> list:
    """What ``call`` gives on each rank; an error is a result."""
    board: list = [None] * size
    barrier = threading.Barrier(size)

    def run(rank: int) -> object:
        try:
            return call(ThreadRank(rank, board, barrier))
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))


def write_model(folder: Path, *, mark: str = "a") -> None:
    for name, size in CONTENT.items():
        (folder / name).write_bytes((mark.encode() * size)[:size])


def save(store: CheckpointStore, step: int, *, mark: str = "a") -> Path:
    state = {"step": step, "mark": mark, "cursor": [1, 2], "layout": "TP1 PP1", "lr": 0.1}
    return save_checkpoint(
        store, step, write_model=lambda folder: write_model(folder, mark=mark), state=state, ranks=Alone()
    )


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep=2)


def names(store: CheckpointStore) -> list[str]:
    return [path.name for path in store.candidates()]


# ---------------------------------------------------------------- what is written is read


def test_a_checkpoint_reads_back_and_verifies(store: CheckpointStore) -> None:
    path = save(store, 40, mark="z")
    assert path == store.folder / "step-00000040"
    assert verify(path) == []
    assert read_state(path) == {"step": 40, "mark": "z", "cursor": [1, 2], "layout": "TP1 PP1", "lr": 0.1}
    assert (path / "model" / "__1_0.distcp").read_bytes() == b"z" * 2048
    assert (store.folder / "latest").read_text() == "step-00000040\n"
    assert newest_valid(store, Alone()) == (path, [])


def test_the_manifest_holds_what_sha256sum_says(store: CheckpointStore) -> None:
    path = save(store, 1)
    listed = json.loads((path / "manifest.json").read_text())["files"]
    said = subprocess.run(
        ["sha256sum", *sorted(listed)], cwd=path, capture_output=True, text=True, check=True, timeout=30
    ).stdout
    assert {line.split("  ")[1]: line.split("  ")[0] for line in said.splitlines()} == {
        name: entry["sha256"] for name, entry in listed.items()
    }
    assert {name: entry["bytes"] for name, entry in listed.items() if name.startswith("model/")} == {
        f"model/{name}": size for name, size in CONTENT.items()
    }


def test_a_new_store_has_no_checkpoint_and_that_is_no_error(store: CheckpointStore) -> None:
    assert store.candidates() == []
    assert newest_valid(store, Alone()) == (None, [])


@pytest.mark.parametrize("state", [{"a": (1, 2)}, {1: "a"}, {"a": float("nan")}])
def test_a_state_that_json_would_change_is_refused(store: CheckpointStore, state: dict) -> None:
    store.begin(1)
    write_model(store.partial(1) / "model")
    with pytest.raises(ValueError, match="JSON"):
        store.commit(1, digest(store.partial(1), rank=0, world_size=1), state)
    assert store.candidates() == []


def test_fewer_than_two_checkpoints_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 or more"):
        CheckpointStore(tmp_path, keep=1)


# ---------------------------------------------------------------- several ranks


def save_on(store: CheckpointStore, ranks: ThreadRank, *, fails: int | None = None) -> Path:
    def write(folder: Path) -> None:
        if ranks.rank == fails:
            raise OSError(28, os.strerror(28))
        (folder / f"__{ranks.rank}_0.distcp").write_bytes(bytes([ranks.rank]) * 1000)

    return save_checkpoint(store, 5, write_model=write, state={"step": 5}, ranks=ranks)


def test_every_rank_digests_and_verifies_its_share(store: CheckpointStore) -> None:
    paths = on_ranks(3, lambda ranks: save_on(store, ranks))
    assert paths == [store.folder / "step-00000005"] * 3
    shares = [verify(paths[0], rank=rank, world_size=3) for rank in range(3)]
    assert shares == [[], [], []]
    (paths[0] / "model" / "__1_0.distcp").write_bytes(b"?" * 1000)
    shares = [verify(paths[0], rank=rank, world_size=3) for rank in range(3)]
    assert sorted(len(share) for share in shares) == [0, 0, 1], "one rank looks, the others need not"


def test_a_rank_that_cannot_write_fails_every_rank(store: CheckpointStore) -> None:
    on_ranks(2, lambda ranks: save_checkpoint(store, 4, write_model=write_model, state={}, ranks=ranks))
    errors = on_ranks(2, lambda ranks: save_on(store, ranks, fails=1))
    assert [type(error) for error in errors] == [CheckpointError] * 2
    assert all("No space left" in str(error) and "step-00000005" in str(error) for error in errors)
    assert names(store) == ["step-00000004"]


def test_every_rank_turns_to_the_same_older_checkpoint(store: CheckpointStore) -> None:
    save(store, 20)
    (save(store, 40) / "model" / ".metadata").unlink()
    found = on_ranks(3, lambda ranks: newest_valid(store, ranks))
    assert found == [found[0]] * 3
    path, problems = found[0]
    assert path == store.final(20)
    assert problems == [f"{store.final(40)}/model/.metadata is missing"]


# ---------------------------------------------------------------- damage


FILES = ["manifest.json", "state.json", *(f"model/{name}" for name in CONTENT)]


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_refused_by_name(store: CheckpointStore, name: str) -> None:
    path = save(store, 40)
    data = (path / name).read_bytes()
    for place in {0, 1, len(data) // 3, len(data) // 2, len(data) - 1}:
        for bit in (0, 5):
            broken = bytearray(data)
            broken[place] ^= 1 << bit
            (path / name).write_bytes(broken)
            problems = verify(path)
            assert len(problems) == 1, (place, bit)
            assert f"{path}/{name} " in problems[0]
            if not name.startswith("model/"):
                with pytest.raises(CheckpointError, match=name):
                    read_state(path)
    (path / name).write_bytes(data)
    assert verify(path) == []


def test_no_bit_of_the_manifest_can_flip_unseen(store: CheckpointStore) -> None:
    path = save(store, 40)
    data = (path / "manifest.json").read_bytes()
    for place in range(len(data)):
        broken = bytearray(data)
        broken[place] ^= 1 << (place % 8)
        (path / "manifest.json").write_bytes(broken)
        assert verify(path) != [], place


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_refused_by_name(store: CheckpointStore, name: str) -> None:
    path = save(store, 40)
    data = (path / name).read_bytes()
    for length in (0, len(data) // 2, len(data) - 1):
        (path / name).write_bytes(data[:length])
        (problem,) = verify(path)
        assert f"{path}/{name} " in problem
        assert name == "manifest.json" or f"has {length} bytes, expected {len(data)}" in problem


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_by_name(store: CheckpointStore, name: str) -> None:
    path = save(store, 40)
    (path / name).unlink()
    (problem,) = verify(path)
    assert f"{path}/{name} " in problem


def test_a_wrong_digest_says_what_came_and_what_was_expected(store: CheckpointStore) -> None:
    path = save(store, 40)
    (path / "model" / ".metadata").write_bytes(b"b" * 77)
    came, expected = (hashlib.sha256(mark * 77).hexdigest() for mark in (b"b", b"a"))
    assert verify(path) == [f"{path}/model/.metadata has sha256 {came}, expected {expected}"]


def test_a_file_that_nobody_listed_is_refused(store: CheckpointStore) -> None:
    path = save(store, 40)
    (path / "model" / "extra.pt").write_bytes(b"x")
    assert verify(path) == [f"{path}/model/extra.pt is not in manifest.json"]


def test_a_checkpoint_under_another_step_s_name_is_refused(store: CheckpointStore) -> None:
    path = save(store, 40).rename(store.folder / "step-00000041")
    (problem,) = verify(path)
    assert "belongs to step 40" in problem


def test_a_manifest_of_a_later_format_is_refused(store: CheckpointStore) -> None:
    path = save(store, 40)
    record = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(record | {"format": 2}))
    (problem,) = verify(path)
    assert "has format 2, this version of megaent reads 1" in problem


def test_all_damaged_is_an_error_that_names_each(store: CheckpointStore) -> None:
    for step in (20, 40):
        (save(store, step) / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"40/state\.json is missing.*20/state\.json is missing"):
        newest_valid(store, Alone())


# ---------------------------------------------------------------- which stay


def test_the_newest_stay(store: CheckpointStore) -> None:
    for step in (10, 20, 30, 100_000_000):
        save(store, step)
    assert names(store) == ["step-100000000", "step-00000030"]
    assert sorted(path.name for path in store.folder.iterdir()) == [
        "latest",
        "step-00000030",
        "step-100000000",
    ]


def test_a_damaged_checkpoint_does_not_count_as_kept(store: CheckpointStore) -> None:
    save(store, 10)
    (save(store, 20) / "model" / ".metadata").write_bytes(b"short")
    save(store, 30)
    assert names(store) == ["step-00000030", "step-00000020", "step-00000010"]
    save(store, 40)
    assert names(store) == ["step-00000040", "step-00000030"]


def test_a_resume_from_before_damaged_checkpoints_keeps_what_it_saves(store: CheckpointStore) -> None:
    wide = CheckpointStore(store.folder, keep=9)
    for step in (10, 40, 60):
        save(wide, step)
    for step in (40, 60):  # of the right size, so only a digest tells
        (store.final(step) / "model" / ".metadata").write_bytes(b"?" * 77)
    assert newest_valid(store, Alone())[0] == store.final(10)
    save(store, 30)
    assert newest_valid(store, Alone())[0] == store.final(30)
    assert store.final(10) in store.candidates()


def test_a_step_saved_again_takes_the_place_of_the_old(store: CheckpointStore) -> None:
    for step in (20, 40):
        save(store, step)
    save(store, 40, mark="b")
    assert names(store) == ["step-00000040", "step-00000020"]
    assert read_state(store.final(40))["mark"] == "b"


def test_leftovers_are_no_candidates_and_the_next_attempt_removes_them(store: CheckpointStore) -> None:
    save(store, 20)
    write_model(store.begin(40) / "model")
    (store.folder / ".step-00000010.removed").mkdir()
    (store.folder / ".latest.77.new").write_text("step-0")
    (store.folder / "step-unnumbered").mkdir()
    assert names(store) == ["step-00000020"]
    store.begin(60)
    hidden = sorted(path.name for path in store.folder.iterdir() if path.name.startswith("."))
    assert hidden == [".step-00000060.partial"]
    assert list((store.folder / ".step-00000060.partial" / "model").iterdir()) == []


def test_what_changed_after_it_was_digested_is_not_committed(store: CheckpointStore) -> None:
    save(store, 20)
    partial = store.begin(40)
    write_model(partial / "model")
    digests = digest(partial, rank=0, world_size=1)
    (partial / "model" / "late.distcp").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"first that differs: model/late\.distcp"):
        store.commit(40, digests, {})
    assert names(store) == ["step-00000020"]


def test_nothing_is_not_committed(store: CheckpointStore) -> None:
    store.begin(40)
    with pytest.raises(CheckpointError, match="no file at all"):
        store.commit(40, {}, {})


# ---------------------------------------------------------------- kills

# Runs in a child: every call that changes the disk is counted, and the n-th is the last, before or after
# it is done. What was not flushed when the power goes may be lost, so a file about to be flushed is cut.
_DRIVER = """
import json, os, shutil, signal, sys
from pathlib import Path

def die_at(n, after, log):
    count = 0
    def wrap(name):
        real = getattr(os, name)
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            log.write(f"{name} {os.fstat(args[0]).st_ino if name == 'fsync' else args[0]}\\n")
            if count == n and not after:
                if name == "fsync" and os.path.isfile(f"/proc/self/fd/{args[0]}"):
                    os.truncate(f"/proc/self/fd/{args[0]}", os.fstat(args[0]).st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            is_last = count == n
            try:
                return real(*args, **kwargs)
            finally:
                if is_last:
                    os.kill(os.getpid(), signal.SIGKILL)
        setattr(os, name, call)
    for name in ("fsync", "mkdir", "rename", "replace", "rmdir", "unlink"):
        wrap(name)

def main(template, scratch, step):
    sys.path[:0] = sys.argv[4:]
    import test_checkpoint as t
    n, survived = 0, False
    while not survived:
        n += 1
        for after in (False, True):
            folder = scratch / f"{n:03d}-{'2-after' if after else '1-before'}"
            shutil.copytree(template, folder)
            child = os.fork()
            if child == 0:
                with open(scratch / "log", "w", buffering=1) as log:
                    die_at(n, after, log)
                    t.save(t.CheckpointStore(folder, keep=2), step, mark="new")
                    os._exit(0)
            _, status = os.waitpid(child, 0)
            assert status in (0, signal.SIGKILL), status
            survived = status == 0

main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
"""


def kill_everywhere(template: Path, scratch: Path, step: int) -> list[Path]:
    scratch.mkdir()
    here = Path(__file__).resolve().parent
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, str(template), str(scratch), str(step), str(here), str(here.parent)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return sorted(path for path in scratch.iterdir() if path.is_dir())


@pytest.mark.parametrize("steps", [(20, 40), (20, 40, 60)], ids=["a new step", "a step saved again"])
def test_a_kill_at_any_instant_leaves_the_old_set_or_old_and_new(
    tmp_path: Path, steps: tuple[int, ...]
) -> None:
    template = tmp_path / "template"
    for step in steps:
        save(CheckpointStore(template, keep=9), step, mark="old")
    folders = kill_everywhere(template, tmp_path / "scratch", 60)
    assert len(folders) >= 2 * 16, "the driver found fewer instants than there must be"
    seen = set()
    for folder in folders:
        store = CheckpointStore(folder, keep=2)
        assert len(store.candidates()) >= 2, folder
        for path in store.candidates():
            assert verify(path) == [], folder
        newest, refused = newest_valid(store, Alone())
        assert newest is not None
        state = read_state(newest)
        assert (state["step"], state["mark"]) in {(max(steps), "old"), (60, "new")}, folder
        assert refused == []
        seen.add(state["mark"])
        # The run goes on from here as if nothing had been.
        save(store, 60, mark="again")
        save(store, 80)
        assert names(store) == ["step-00000080", "step-00000060"], folder
        assert not list(folder.glob(".*")), folder
    assert seen == {"old", "new"}, "kills before and after the rename were both tried"


def test_everything_is_flushed_before_the_name_that_counts(tmp_path: Path) -> None:
    template, scratch = tmp_path / "template", tmp_path / "scratch"
    save(CheckpointStore(template, keep=2), 20)
    folder = kill_everywhere(template, scratch, 40)[-1]
    lines = [line.split(" ", 1) for line in (scratch / "log").read_text().splitlines()]
    (named,) = [n for n, (call, what) in enumerate(lines) if call == "rename" and what.endswith("40.partial")]
    before = {int(what) for call, what in lines[:named] if call == "fsync"}
    final = folder / "step-00000040"
    missed = [path for path in [final, *final.rglob("*")] if path.stat().st_ino not in before]
    assert missed == []
    assert lines[named + 1] == ["fsync", str(folder.stat().st_ino)], "the new name itself"
    assert "replace" in [call for call, _ in lines[named + 2 :]], "latest moves last"


# ---------------------------------------------------------------- full disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 88 KiB where this user may mount one; else a folder under a limit on file sizes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=88k", "tmpfs", str(disk)]
    is_mounted = (
        shutil.which("mount") and not subprocess.run(mount, capture_output=True, timeout=30).returncode
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if not is_mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (48 * 1024, limits[1]))
    try:
        yield disk
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
        if is_mounted:
            subprocess.run(["umount", "-l", str(disk)], check=True, timeout=30)


def test_a_disk_that_fills_while_the_state_is_written_leaves_the_earlier_checkpoints(
    small_disk: Path,
) -> None:
    store = CheckpointStore(small_disk / "checkpoints", keep=2)
    for step in (10, 20):
        save(store, step)
    partial = store.begin(30)
    write_model(partial / "model")
    digests = digest(partial, rank=0, world_size=1)
    with pytest.raises(CheckpointError, match=r"step-00000030.*bytes are needed and .* bytes are free"):
        store.commit(30, digests, {"long": "x" * 60_000})
    assert sorted(path.name for path in store.folder.iterdir()) == [
        "latest",
        "step-00000010",
        "step-00000020",
    ]
    assert [verify(path) for path in store.candidates()] == [[], []]
    save(store, 30)
    assert names(store) == ["step-00000030", "step-00000020"], "the room that the attempt took is free again"


def test_a_disk_that_fills_while_the_model_is_written_leaves_the_earlier_checkpoints(
    small_disk: Path,
) -> None:
    store = CheckpointStore(small_disk / "checkpoints", keep=2)
    save(store, 10)

    def write(folder: Path) -> None:
        (folder / "big.distcp").write_bytes(b"x" * 100_000)

    with pytest.raises(CheckpointError, match=r"step-00000020.*(No space left|File too large)"):
        save_checkpoint(store, 20, write_model=write, state={}, ranks=Alone())
    assert names(store) == ["step-00000010"]
    assert newest_valid(store, Alone()) == (store.final(10), [])


def test_too_little_room_is_refused_before_any_rank_writes(store: CheckpointStore) -> None:
    path = save(store, 10)
    # A file with a hole, larger than what the disk has left; only its size is looked at here.
    size = shutil.disk_usage(store.folder).free + 2**30
    os.truncate(path / "model" / "__0_0.distcp", size)
    listed = read_manifest(path) | {"model/__0_0.distcp": FileDigest(num_bytes=size, sha256="0" * 64)}
    (path / "manifest.json").write_bytes(render_manifest(10, listed))
    with pytest.raises(CheckpointError, match=r"step-00000020.*bytes are needed and"):
        store.begin(20)
    assert not store.partial(20).exists()
