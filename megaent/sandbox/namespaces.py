"""A process with its own users, mounts, network, mailboxes and processes: it sees Python and nothing else.

Its root is an empty file system in which the standard library and the shared libraries can be read. Its
network has no interface that is up. Whatever it starts ends with it, for it is the first of its processes.
"""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

from megaent.sandbox import linux

_EMPTY = "/proc"  # a folder that all machines have and no file that is shown lies in
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_USER = 1000  # inside, nobody in particular


def enter() -> int:
    """This process leaves the machine's namespaces; returns in a child, which is alone in the new ones.

    The parent waits for the child and ends as it did. Raises OSError where the kernel refuses.
    """
    user, group = os.geteuid(), os.getegid()
    kinds = linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
    linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWPID | kinds)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{_USER} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{_USER} {group} 1")
    _build_root()
    child = os.fork()
    if child:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
    linux.prctl(linux.PR_SET_PDEATHSIG, 9)
    return os.pidfd_open(os.getpid())


def renew_processes(own: int) -> None:
    """The next child is the first process of a new namespace; ``own`` is what ``enter`` returned."""
    linux.setns(own, linux.CLONE_NEWPID)
    linux.unshare(linux.CLONE_NEWPID | linux.CLONE_NEWIPC)


def _build_root() -> None:
    linux.mount("", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    linux.mount(
        "none", _EMPTY, kind="tmpfs", flags=linux.MS_NOSUID | linux.MS_NODEV, options="mode=755,size=1m"
    )
    for path in shown():
        _show(path)
    flags = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("none", _EMPTY, flags=flags)
    linux.enter_root(_EMPTY)


def shown() -> list[str]:
    """What can be read inside: where Python and the libraries that it loads lie, links followed."""
    found = [sysconfig.get_path("stdlib")]
    shared = sysconfig.get_config_var("LIBDIR")
    ours = [path for path in (*found, *_LIBRARIES) if Path(path).is_dir()]
    if sysconfig.get_config_var("Py_ENABLE_SHARED") and shared not in ours:
        ours.append(shared)
    return [path for path in dict.fromkeys(ours) if not _lies_in(path, ours)]


def _lies_in(path: str, others: list[str]) -> bool:
    return any(Path(other) in Path(path).parents for other in others)


def _show(path: str) -> None:
    inside = Path(_EMPTY + path)
    if Path(path).is_symlink():
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.symlink_to(Path(path).readlink())
    else:
        inside.mkdir(parents=True, exist_ok=True)
        linux.bind_read_only(path, str(inside))
