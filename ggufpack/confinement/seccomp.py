"""Seccomp: which system calls the process may make, as a filter program that the kernel runs.

Landlock has no say over UDP, Unix sockets by path, processes, tracing, and the mode and times of files;
here they are refused. Program format: include/uapi/linux/filter.h and seccomp.h; numbers of system calls:
arch/x86/entry/syscalls/syscall_64.tbl and, for aarch64, include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable, Iterator

from ggufpack.confinement.kernel import PR_GET_SECCOMP, PR_SET_SECCOMP, prctl

_MODE_FILTER = 2
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _JUMP_EQUAL, _JUMP_GREATER, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06
_AND = 0x54
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_X32_BIT = 0x40000000  # the second table of x86-64
_CLONE_THREAD = 0x00010000
_AF_UNIX, _AF_NETLINK = 1, 16
_SOCK_STREAM, _SOCK_TYPE = 1, 0xF
_NEWEST = 470  # numbers above are of calls that nobody has looked at here

_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column; include/uapi/linux/audit.h

# name, number on x86-64, on aarch64 (-1: there is none)
_Table = dict[str, tuple[int, int]]
_PROCESSES: _Table = {
    "fork": (57, -1),
    "vfork": (58, -1),
    "execve": (59, 221),
    "execveat": (322, 281),
    "setsid": (112, 157),
    "setpgid": (109, 154),
}
_SIGNALS: _Table = {  # the first argument is a process
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
}
_SOCKETS: _Table = {
    "socket": (41, 198),
}
_TRUNCATE: _Table = {
    "truncate": (76, 45),
}
_CONNECT: _Table = {
    "connect": (42, 203),
}
_REFUSED: _Table = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "mount": (165, 40),
    "umount2": (166, 39),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "fanotify_init": (300, 262),
    "open_by_handle_at": (304, 265),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "syslog": (103, 116),
    "iopl": (172, -1),
    "ioperm": (173, -1),
    "modify_ldt": (154, -1),
    "personality": (135, 92),
    "vhangup": (153, 58),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "setxattrat": (463, 463),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}
_PRETENDED: _Table = {  # copying a file sets its mode and times; that they stay as they are is no failure
    "chmod": (90, -1),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, -1),
    "lchown": (94, -1),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utime": (132, -1),
    "utimes": (235, -1),
    "futimesat": (261, -1),
}
_CLONE, _CLONE3, _UTIMENSAT, _PRLIMIT, _PRCTL = (56, 220), (435, 435), (280, 88), (302, 261), (157, 167)


def program(machine: str, process: int, *, gpu: bool, listens: bool = False, truncates: bool = True) -> bytes:
    """The filter's instructions. Pure.

    Args:
        machine: a key of ``_MACHINES``.
        process: the only one that may be sent signals.
        gpu: whether local sockets and new processes are allowed: drivers use them.
        listens: whether it may listen on a local stream socket, and connect to none.
        truncates: whether Landlock knows about files that are cut short by name.
    """
    column, architecture = _MACHINES[machine]
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        code += [(_JUMP_AT_LEAST, 0, 1, _X32_BIT), (_RETURN, 0, 0, _KILL_PROCESS)]
    code += [(_JUMP_GREATER, 0, 1, _NEWEST), _error(errno.ENOSYS)]
    code += _when(_REFUSED, column, [_error(errno.EPERM)])
    if not truncates:
        code += _when(_TRUNCATE, column, [_error(errno.EPERM)])
    code += _when(_PRETENDED, column, [_error(0)])
    code += _when({"utimensat": _UTIMENSAT}, column, _unless_null(1, 0))
    code += _when({"prlimit64": _PRLIMIT}, column, _unless_argument(0, (0, process)))
    # a parent's death ends the process: it may not change its mind
    code += _when(
        {"prctl": _PRCTL}, column, [_argument(0), (_JUMP_EQUAL, 0, 1, 1), _error(errno.EPERM), _allow()]
    )
    if gpu:
        code += _when(_SOCKETS, column, _unless_argument(0, (_AF_UNIX, _AF_NETLINK)))
    else:
        code += _when(_SOCKETS, column, _only_local_streams() if listens else [_error(errno.EPERM)])
        code += _when(_CONNECT, column, [_error(errno.EPERM)])
        code += _when(_SIGNALS, column, _unless_argument(0, (process,)))
        code += _when(_PROCESSES, column, [_error(errno.EPERM)])
        # its flags are behind a pointer: the C library takes clone where this is not there
        code += _when({"clone3": _CLONE3}, column, [_error(errno.ENOSYS)])
        thread = [_argument(0), (_JUMP_ANY_BIT, 0, 1, _CLONE_THREAD), _allow(), _error(errno.EPERM)]
        code += _when({"clone": _CLONE}, column, thread)
    code.append(_allow())
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def available() -> bool:
    """Whether this machine's numbers are known."""
    return platform.machine() in _MACHINES


def in_kernel() -> bool:
    """Whether this kernel has filters at all."""
    try:
        return prctl(PR_GET_SECCOMP, 0) >= 0
    except OSError:
        return False


def restrict(*, gpu: bool, listens: bool = False, truncates: bool = True) -> None:
    """Put the filter on this thread, and on all that it starts. ``no_new_privs`` is set.

    Raises:
        OSError: the kernel refuses it.
    """
    code = program(platform.machine(), os.getpid(), gpu=gpu, listens=listens, truncates=truncates)
    buffer = ctypes.create_string_buffer(code, len(code))
    prctl(PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(_Program(len(code) // 8, ctypes.addressof(buffer))))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


_Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


def _when(table: _Table, column: int, then: list[_Instruction]) -> Iterator[_Instruction]:
    """``then`` ends in a verdict on every way: what follows is reached with the number loaded."""
    for numbers in table.values():
        if numbers[column] >= 0:
            yield (_JUMP_EQUAL, 0, len(then), numbers[column])
            yield from then


def _unless_argument(index: int, values: Iterable[int]) -> list[_Instruction]:
    """Refuse it unless the argument (32 bits) is one of these."""
    code = [_argument(index)]
    for value in values:
        code += [(_JUMP_EQUAL, 0, 1, value), _allow()]
    return [*code, _error(errno.EPERM)]


def _only_local_streams() -> list[_Instruction]:
    """Not datagrams: those are sent to any socket without a connection."""
    return [
        _argument(0),
        (_JUMP_EQUAL, 0, 3, _AF_UNIX),
        _argument(1),
        (_AND, 0, 0, _SOCK_TYPE),
        (_JUMP_EQUAL, 1, 0, _SOCK_STREAM),
        _error(errno.EPERM),
        _allow(),
    ]


def _unless_null(index: int, error: int) -> list[_Instruction]:
    """``error`` unless the argument, a pointer, is null."""
    low, high = _argument(index), (_LOAD, 0, 0, _ARGUMENTS + 8 * index + 4)
    return [low, (_JUMP_EQUAL, 0, 3, 0), high, (_JUMP_EQUAL, 0, 1, 0), _allow(), _error(error)]


def _argument(index: int) -> _Instruction:
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * index)  # both machines store the low half first


def _error(number: int) -> _Instruction:
    return (_RETURN, 0, 0, _ERRNO | number)


def _allow() -> _Instruction:
    return (_RETURN, 0, 0, _ALLOW)
