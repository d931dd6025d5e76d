"""Landlock: files, TCP ports, abstract sockets and signals, by the kernel and without root.

Names and numbers: Linux, include/uapi/linux/landlock.h; the three system calls have the same numbers on
every machine (include/uapi/asm-generic/unistd.h). What an older kernel does not know is left out of the
request: Documentation/userspace-api/landlock.rst, "Compatibility".
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from ggufpack.confinement.kernel import system_call

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (1 << bit for bit in range(6, 13))
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_FIRST_ABI = MAKE_SYM * 2 - 1
_ABI_OF = {2: REFER, 3: TRUNCATE, 5: IOCTL_DEV}

TRUNCATE_ABI = 3
_NET = 0b11  # BIND_TCP, CONNECT_TCP
_NET_ABI = 4
_SCOPED = 0b11  # ABSTRACT_UNIX_SOCKET, SIGNAL
_SCOPED_ABI = 6

READING = READ_FILE | READ_DIR
WRITING = READING | WRITE_FILE | TRUNCATE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SYM | REFER
LISTENING = READING | MAKE_SOCK | REMOVE_FILE
DEVICE = READING | WRITE_FILE | IOCTL_DEV
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def abi() -> int:
    """The kernel's version of Landlock; 0 where it has none, or where it is switched off."""
    try:
        return system_call(
            _CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_CREATE_RULESET_VERSION)
        )
    except OSError:
        return 0


def handled(version: int) -> int:
    """All file rights that this version knows."""
    return _FIRST_ABI | sum(right for since, right in _ABI_OF.items() if version >= since)


def restrict(rules: Iterable[tuple[Path, int]], *, version: int) -> None:
    """Take every right from this thread, and from all that it starts, except these.

    Args:
        rules: a file or folder, and what may be done with it and below it; others than existing ones are
            passed over.
        version: ``abi()``, at least 1. ``no_new_privs`` is set.

    Raises:
        OSError: the kernel refuses it.
    """
    known = handled(version)
    wanted = _Ruleset(known, _NET if version >= _NET_ABI else 0, _SCOPED if version >= _SCOPED_ABI else 0)
    with _created(wanted) as ruleset:
        for path, rights in rules:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                _add(ruleset, path, rights & known)
        system_call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))


@contextlib.contextmanager
def _created(wanted: _Ruleset) -> Iterator[int]:
    size = ctypes.c_size_t(ctypes.sizeof(wanted))
    ruleset = system_call(_CREATE_RULESET, ctypes.byref(wanted), size, ctypes.c_uint32(0))
    try:
        yield ruleset
    finally:
        os.close(ruleset)


def _add(ruleset: int, path: Path, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _OF_FILES
        rule = _PathBeneath(rights, descriptor)
        number = ctypes.c_int(_RULE_PATH_BENEATH)
        system_call(_ADD_RULE, ctypes.c_int(ruleset), number, ctypes.byref(rule), ctypes.c_uint32(0))
    finally:
        os.close(descriptor)
