"""Resource limits, capabilities, and who dies first when memory is short."""

from __future__ import annotations

import contextlib
import ctypes
import resource
from pathlib import Path

from ggufpack.confinement.kernel import system_call
from ggufpack.confinement.rules import Confinement

# include/uapi/linux/capability.h: as root, the files of others are read and written still
_VERSION_3 = 0x20080522
_DAC_OVERRIDE, _FOWNER = 1 << 1, 1 << 3
_CAPGET_CAPSET = {"x86_64": (125, 126), "aarch64": (90, 91)}


def limit_resources(confinement: Confinement) -> None:
    """No core file, and no file longer than allowed.

    Neither ``RLIMIT_AS`` nor ``RLIMIT_DATA``: a checkpoint is mapped whole, in part privately. Nor
    ``RLIMIT_NPROC``, which counts what the person runs elsewhere. ``process.py`` watches both.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if confinement.longest_file is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        wanted = confinement.longest_file
        longest = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_FSIZE, (longest, longest))


def die_first() -> None:
    """When the kernel has to end a process for its memory, it is this one."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def drop_capabilities(machine: str) -> None:
    """Of root's privileges, only reading and writing files of others stay.

    Raises:
        OSError: the kernel refuses it.
    """
    capget, capset = _CAPGET_CAPSET[machine]
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice, for 64 of them
    system_call(capget, header, data)
    kept = data[1] & (_DAC_OVERRIDE | _FOWNER)
    system_call(capset, header, (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0))
