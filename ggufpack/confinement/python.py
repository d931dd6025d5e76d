"""What this interpreter reads, whatever the work is: its library, packages and shared objects."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

# shared objects and their cache, time zones, CPUs and memory; the process's own numbers
_SYSTEM = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/etc/localtime"),
    *("/usr/share/zoneinfo", "/dev/urandom", "/dev/random", "/dev/zero", "/proc/self", "/proc/cpuinfo"),
    *("/proc/meminfo", "/proc/stat", "/proc/filesystems", "/sys/devices/system", "/sys/fs/cgroup"),
    "/proc/sys/vm/overcommit_memory",
)
_GPU = ("/dev", "/sys", "/proc/driver", "/proc/devices", "/proc/modules", "/usr", "/etc", "/opt")
_GPU_DEVICES = ("/dev/dri", "/dev/kfd")


def interpreter_paths(*, gpu: bool) -> tuple[Path, ...]:
    """Folders and files that an interpreter with these modules loaded goes on reading.

    A prefix (often ``/usr``, or a home folder's environment) is in it as its library folders only; an
    entry of ``sys.path`` is one that the person put there, as is a module's folder that an editable
    installation names.
    """
    found = [*sysconfig.get_paths().values(), *sys.path, *_mapped_files()]
    for name, module in list(sys.modules.items()):
        if "." not in name and (file := getattr(module, "__file__", None)):
            found.append(str(Path(file).parent) if Path(file).stem == "__init__" else file)
    named = {Path(text) for text in (*found, *_SYSTEM, *(_GPU if gpu else ())) if text}
    home = Path.home()
    return tuple(sorted(path for path in named if path.is_absolute() and path not in (home, *home.parents)))


def gpu_devices() -> tuple[Path, ...]:
    """Devices of GPUs, if there are any."""
    named = (*map(Path, _GPU_DEVICES), *Path("/dev").glob("nvidia*"))
    return tuple(path for path in named if path.exists())


def _mapped_files() -> list[str]:
    """Folders of the shared objects that are loaded: others of theirs are loaded later."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    lines = maps.read_text(encoding="utf-8", errors="replace").splitlines()
    files = {fields[5] for line in lines if len(fields := line.split(None, 5)) == 6}
    return [str(Path(file).parent) for file in files if ".so" in Path(file).suffixes]
