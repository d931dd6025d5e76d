"""System calls for which Python has no function, through the C library."""

from __future__ import annotations

import ctypes
import os
from typing import Any

PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h, as the next four
PR_GET_SECCOMP = 21
PR_SET_SECCOMP = 22
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

_C: Any = ctypes.CDLL(None, use_errno=True)
_C.syscall.restype = ctypes.c_long
_C.prctl.restype = ctypes.c_int


def system_call(number: int, *arguments: object) -> int:
    """A system call by its number.

    Raises:
        OSError: the kernel refuses it.
    """
    return _checked(_C.syscall(ctypes.c_long(number), *arguments))


def prctl(option: int, value: object, more: object = 0) -> int:
    """``prctl(2)``.

    Raises:
        OSError: the kernel refuses it.
    """
    whole = [item if not isinstance(item, int) else ctypes.c_ulong(item) for item in (value, more)]
    return _checked(_C.prctl(ctypes.c_int(option), *whole, ctypes.c_ulong(0), ctypes.c_ulong(0)))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
