"""The filter program, run by an interpreter of its own: each call's verdict on both machines."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from ggufpack.confinement import landlock, seccomp

ALLOW, KILL = 0x7FFF0000, 0x80000000
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
OWN = 4711


def error(number: int) -> int:
    return 0x00050000 | number


def verdict(code: bytes, number: int, *arguments: int, architecture: int) -> int:
    """What the kernel would do (Documentation/networking/filter.rst)."""
    data = struct.pack("=IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = list(struct.iter_unpack("=HBBI", code))
    at, value = 0, 0
    while True:
        operation, yes, no, constant = instructions[at]
        at += 1
        if operation == 0x20:
            (value,) = struct.unpack_from("=I", data, constant)
        elif operation == 0x54:
            value &= constant
        elif operation == 0x06:
            return int(constant)
        else:
            holds = {
                0x15: value == constant,
                0x25: value > constant,
                0x35: value >= constant,
                0x45: bool(value & constant),
            }[operation]
            at += yes if holds else no


# x86-64, aarch64, arguments, verdict
CASES = {
    "read": (0, 63, (), ALLOW),
    "openat": (257, 56, (), ALLOW),
    "mmap": (9, 222, (), ALLOW),
    "futex": (202, 98, (), ALLOW),
    "exit_group": (231, 94, (), ALLOW),
    "socket": (41, 198, (2, 1, 0), error(errno.EPERM)),
    "unix socket": (41, 198, (1, 1, 0), error(errno.EPERM)),
    "connect": (42, 203, (5,), error(errno.EPERM)),
    "execve": (59, 221, (), error(errno.EPERM)),
    "ptrace": (101, 117, (), error(errno.EPERM)),
    "io_uring_setup": (425, 425, (), error(errno.EPERM)),
    "chmod": (268, 53, (), error(0)),
    "a new thread": (56, 220, (0x3D0F00,), ALLOW),
    "a new process": (56, 220, (17,), error(errno.EPERM)),
    "clone3": (435, 435, (), error(errno.ENOSYS)),
    "an own signal": (62, 129, (OWN, 15), ALLOW),
    "another's signal": (62, 129, (1, 15), error(errno.EPERM)),
    "a group's signal": (62, 129, (2**64 - 1, 15), error(errno.EPERM)),
    "own limits": (302, 261, (0, 7), ALLOW),
    "another's limits": (302, 261, (1, 7), error(errno.EPERM)),
    "times of an open file": (280, 88, (5, 0, 0), ALLOW),
    "times by name": (280, 88, (-100 % 2**64, 0x7F0000000000), error(0)),
    "times by a low name": (280, 88, (5, 0x1000), error(0)),
    "live without the parent": (157, 167, (1, 0), error(errno.EPERM)),
    "a thread's name": (157, 167, (15, 0), ALLOW),
    "a call of a later kernel": (471, 471, (), error(errno.ENOSYS)),
}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("name", CASES)
def test_each_call_has_its_verdict(name: str, machine: str) -> None:
    numbers, arguments, expected = CASES[name][:2], CASES[name][2], CASES[name][3]
    number = numbers[machine == "aarch64"]
    code = seccomp.program(machine, OWN, gpu=False)
    assert verdict(code, number, *arguments, architecture=ARCHITECTURE[machine]) == expected


def test_other_tables_of_calls_kill() -> None:
    code = seccomp.program("x86_64", OWN, gpu=False)
    assert verdict(code, 0, architecture=0x40000003) == KILL, "32 bits"
    assert verdict(code, 0x40000000 | 41, architecture=ARCHITECTURE["x86_64"]) == KILL, "x32"
    assert verdict(code, 63, architecture=ARCHITECTURE["aarch64"]) == KILL


def test_a_gpus_libraries_may_start_processes_and_speak_locally() -> None:
    code = seccomp.program("x86_64", OWN, gpu=True)
    here = ARCHITECTURE["x86_64"]
    assert verdict(code, 59, architecture=here) == ALLOW
    assert verdict(code, 41, 1, architecture=here) == ALLOW
    assert verdict(code, 41, 2, architecture=here) == error(errno.EPERM)
    assert verdict(code, 101, architecture=here) == error(errno.EPERM)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize(
    ("family", "kind", "expected"),
    [
        (1, 1, ALLOW),
        (1, 1 | 0o2000000 | 0o4000, ALLOW),  # SOCK_CLOEXEC, SOCK_NONBLOCK
        (1, 2, error(errno.EPERM)),
        (1, 5, error(errno.EPERM)),
        (2, 1, error(errno.EPERM)),
        (16, 1, error(errno.EPERM)),
        (40, 1, error(errno.EPERM)),
    ],
)
def test_who_listens_has_local_streams_only(family: int, kind: int, expected: int, machine: str) -> None:
    code = seccomp.program(machine, OWN, gpu=False, listens=True)
    socket, connect = seccomp._SOCKETS["socket"], seccomp._CONNECT["connect"]
    column, here = seccomp._MACHINES[machine][0], ARCHITECTURE[machine]
    assert verdict(code, socket[column], family, kind, architecture=here) == expected
    assert verdict(code, connect[column], 5, architecture=here) == error(errno.EPERM)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_cutting_a_file_by_name_is_refused_where_landlock_does_not_know_it(machine: str) -> None:
    number = seccomp._TRUNCATE["truncate"][seccomp._MACHINES[machine][0]]
    for truncates, expected in ((False, error(errno.EPERM)), (True, ALLOW)):
        code = seccomp.program(machine, OWN, gpu=False, truncates=truncates)
        assert verdict(code, number, architecture=ARCHITECTURE[machine]) == expected


HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
GENERIC = Path("/usr/include/asm-generic/unistd.h")


@pytest.mark.skipif(not (HEADER.is_file() and GENERIC.is_file()), reason="needs the kernel's headers")
def test_numbers_are_the_kernels() -> None:
    headers = [
        {name: int(number) for name, number in re.findall(r"__NR(?:3264)?_(\w+)\s+(\d+)\b", path.read_text())}
        for path in (HEADER, GENERIC)
    ]
    of_processes = (seccomp._PROCESSES, seccomp._SIGNALS, seccomp._SOCKETS, seccomp._CONNECT)
    tables = (*of_processes, seccomp._TRUNCATE, seccomp._REFUSED, seccomp._PRETENDED)
    compared = 0
    for name, numbers in {k: v for table in tables for k, v in table.items()}.items():
        for header, number in zip(headers, numbers, strict=True):
            if name in header:
                assert header[name] == number, name
                compared += 1
    assert compared > 120


@pytest.mark.parametrize(
    ("version", "rights"), [(1, 0x1FFF), (2, 0x3FFF), (3, 0x7FFF), (4, 0x7FFF), (5, 0xFFFF), (7, 0xFFFF)]
)
def test_an_older_kernel_is_asked_for_what_it_knows(version: int, rights: int) -> None:
    """As in the kernel's samples/landlock/sandboxer.c."""
    assert landlock.handled(version) == rights
