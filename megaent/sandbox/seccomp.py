"""The system calls a program may make: an allow list, in the kernel's own filter language.

A program may compute, use memory, read, write to what is open already, wait, and start threads. All else is
answered EPERM: processes, sockets, signals to others, files opened for writing, debugging, mounts. The filter
can neither be removed nor loosened (``man 2 seccomp``).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Sequence
from functools import lru_cache

from megaent.sandbox.linux import PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, prctl

_ARCHITECTURES = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}

# Numbers on x86_64 and on aarch64; -1 where there is no such call.
_ALLOWED = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "stat": (4, -1), "fstat": (5, 80), "lstat": (6, -1),
    "poll": (7, -1), "lseek": (8, 62), "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215),
    "brk": (12, 214), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "pread64": (17, 67), "readv": (19, 65), "writev": (20, 66), "access": (21, -1), "pipe": (22, -1),
    "select": (23, -1), "sched_yield": (24, 124), "mremap": (25, 216), "madvise": (28, 233), "dup": (32, 23),
    "dup2": (33, -1), "pause": (34, -1), "nanosleep": (35, 101), "alarm": (37, -1), "setitimer": (38, 103),
    "getpid": (39, 172), "exit": (60, 93), "uname": (63, 160), "fcntl": (72, 25), "getcwd": (79, 17),
    "readlink": (89, -1), "gettimeofday": (96, 169), "getrlimit": (97, 163), "getrusage": (98, 165),
    "sysinfo": (99, 179), "times": (100, 153), "getuid": (102, 174), "getgid": (104, 176),
    "geteuid": (107, 175), "getegid": (108, 177), "getppid": (110, 173), "sigaltstack": (131, 132),
    "arch_prctl": (158, -1), "gettid": (186, 178), "futex": (202, 98), "sched_getaffinity": (204, 123),
    "getdents64": (217, 61), "set_tid_address": (218, 96), "restart_syscall": (219, 128),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115),
    "exit_group": (231, 94), "epoll_wait": (232, -1), "epoll_ctl": (233, 21), "newfstatat": (262, 79),
    "readlinkat": (267, 78), "faccessat": (269, 48), "pselect6": (270, 72), "ppoll": (271, 73),
    "set_robust_list": (273, 99), "epoll_pwait": (281, 22), "eventfd2": (290, 19), "epoll_create1": (291, 20),
    "dup3": (292, 24), "pipe2": (293, 59), "getrandom": (318, 278), "membarrier": (324, 283),
    "statx": (332, 291), "rseq": (334, 293), "close_range": (436, 436), "faccessat2": (439, 439),
}  # fmt: skip
_OPEN, _OPENAT, _CLONE, _CLONE3 = (2, -1), (257, 56), (56, 220), (435, 435)
_TGKILL, _PRLIMIT, _IOCTL = (234, 131), (302, 261), (16, 29)

_FOR_WRITING = (
    os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | 0o20000000
)  # O_TMPFILE's own bit
_CLONE_THREAD = 0x1_0000
_IS_TERMINAL, _CLOSE_ON_EXEC = 0x5401, 0x5451

_LOAD, _EQUAL, _HAS_BIT, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _KILL, _REFUSE = 0x7FFF_0000, 0x8000_0000, 0x0005_0000
_NUMBER, _ARCHITECTURE = 0, 4
_X32 = 0x4000_0000

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


def confine(process: int) -> None:
    """This thread, and all that it starts, for good. ``process`` is this process's own number.

    Raises OSError where the kernel has no such filters or knows no numbers for this machine.
    """
    code = compiled(process)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_SECCOMP, 2, ctypes.create_string_buffer(program, len(program)))


@lru_cache(maxsize=1)
def compiled(process: int) -> bytes:
    machine = os.uname().machine
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no list of system calls for {machine}")
    return b"".join(struct.pack("HBBI", *step) for step in instructions(machine, process))


def instructions(machine: str, process: int) -> list[Instruction]:
    place = list(_ARCHITECTURES).index(machine)
    return [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _KILL),
        *(step for numbers in _ALLOWED.values() for step in _when(numbers[place], [(_RETURN, 0, 0, _ALLOW)])),
        *_when(_OPEN[place], _unless_bit(1, _FOR_WRITING, errno.EROFS)),
        *_when(_OPENAT[place], _unless_bit(2, _FOR_WRITING, errno.EROFS)),
        *_when(_CLONE[place], _if_bit(0, _CLONE_THREAD)),
        *_when(_CLONE3[place], [_refused(errno.ENOSYS)]),  # its flags lie in memory; libraries then use clone
        *_when(_TGKILL[place], _if_equal(0, (process,))),
        *_when(_PRLIMIT[place], _if_equal(0, (0, process))),
        *_when(_IOCTL[place], _if_equal(1, (_IS_TERMINAL, _CLOSE_ON_EXEC))),
        _refused(errno.EPERM),
    ]


def _when(number: int, then: Sequence[Instruction]) -> list[Instruction]:
    """``then``, which returns on every way, for one system call."""
    return [] if number < 0 else [(_EQUAL, 0, len(then), number), *then]


def _if_equal(argument: int, values: Sequence[int]) -> list[Instruction]:
    tests = [(_EQUAL, len(values) - place, 0, value) for place, value in enumerate(values)]
    return [_argument(argument), *tests, _refused(errno.EPERM), (_RETURN, 0, 0, _ALLOW)]


def _if_bit(argument: int, bits: int) -> list[Instruction]:
    return [_argument(argument), (_HAS_BIT, 1, 0, bits), _refused(errno.EPERM), (_RETURN, 0, 0, _ALLOW)]


def _unless_bit(argument: int, bits: int, error: int) -> list[Instruction]:
    return [_argument(argument), (_HAS_BIT, 0, 1, bits), _refused(error), (_RETURN, 0, 0, _ALLOW)]


def _argument(place: int) -> Instruction:
    return (_LOAD, 0, 0, 16 + 8 * place)  # its lower half: flags, numbers of processes


def _refused(error: int) -> Instruction:
    return (_RETURN, 0, 0, _REFUSE | error)
