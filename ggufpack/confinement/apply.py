"""The process confines itself: there is no way back, for it or for what it starts."""

from __future__ import annotations

import logging
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ggufpack.confinement.rules import OFF_VARIABLE, Confinement

_logger = logging.getLogger("ggufpack")
_NULL = (Path("/dev/null"),)
_SHARED = Path("/dev/shm")  # noqa: S108 - what drivers share between processes
_PROGRAMS = tuple(map(Path, ("/bin", "/usr", "/opt", "/sbin", sys.prefix, sys.base_prefix)))


@dataclass(frozen=True)
class Confined:
    """What holds the process.

    Attributes:
        landlock: version of the kernel's Landlock; 0 for none.
        system_calls: whether a filter refuses system calls.
        missing: what it could do nevertheless: ``"files"``, ``"attributes"``, ``"network"``,
            ``"processes"``, ``"signals"``.
        switched_off: by ``GGUFPACK_UNCONFINED``.
    """

    landlock: int = 0
    system_calls: bool = False
    missing: tuple[str, ...] = ("files", "attributes", "network", "processes", "signals")
    switched_off: bool = False

    def to_json(self) -> dict[str, Any]:
        """For the pipe, and the record."""
        return {**asdict(self), "missing": list(self.missing)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Confined:
        """Back from the pipe, or from a record.

        Raises:
            ValueError: it is none, as a stranger's file may say.
        """
        found = cls(data.get("landlock"), data.get("system_calls"), (), data.get("switched_off"))  # type: ignore[arg-type]
        lacks = data.get("missing")
        kinds = (type(found.landlock), type(found.system_calls), type(found.switched_off), type(lacks))
        if kinds != (int, bool, bool, list) or not all(name in _WORDS for name in lacks or ()):
            raise ValueError("no confinement is described so")
        return replace(found, missing=tuple(lacks or ()))

    @property
    def summary(self) -> str:
        """In some words, for a table: ``"Landlock 7, system calls filtered"``."""
        if self.switched_off:
            return f"nothing: {OFF_VARIABLE} is set"
        parts = [f"Landlock {self.landlock}"] if self.landlock else []
        parts += ["system calls filtered"] if self.system_calls else []
        lacks = ", ".join(_WORDS[name] for name in self.missing)
        return (", ".join(parts) or "nothing") + (f"; not kept from {lacks}" if lacks else "")

    @property
    def note(self) -> str | None:
        """A sentence for the person who watches; ``None`` where everything is held."""
        if self.switched_off:
            return f"The process that reads the checkpoint is not confined: {OFF_VARIABLE} is set."
        if not self.missing:
            return None
        return (
            "The process that reads the checkpoint is not confined as far as it could be: this system does"
            f" not keep it from {_WORDS[self.missing[0]]}"
            + "".join(f", {_WORDS[name]}" for name in self.missing[1:])
            + ". Feed it with checkpoints that you trust."
        )


_WORDS = {
    "files": "other files",
    "attributes": "modes and times of other files",
    "network": "the network",
    "processes": "starting processes",
    "signals": "other processes",
}


def confine(confinement: Confinement) -> Confined:
    """Apply it to this process, which has one thread: other threads would stay as they are.

    What the system cannot do, or refuses to, is said in what is returned.
    """
    if os.environ.get(OFF_VARIABLE) == "1":
        return Confined(switched_off=True)
    if sys.platform == "win32":
        return Confined()
    from ggufpack.confinement.limits import limit_resources

    limit_resources(confinement)
    return _confine_on_linux(confinement) if sys.platform == "linux" else Confined()


def _confine_on_linux(confinement: Confinement) -> Confined:
    from ggufpack.confinement import landlock, limits, seccomp
    from ggufpack.confinement.kernel import PR_SET_NO_NEW_PRIVS, prctl
    from ggufpack.confinement.python import gpu_devices, interpreter_paths

    limits.die_first()
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    version = landlock.abi()
    if version:
        rules = [
            (path, landlock.READING) for path in (*interpreter_paths(gpu=confinement.gpu), *confinement.read)
        ]
        rules += [(path, landlock.WRITING) for path in confinement.write]
        rules += [(path, landlock.DEVICE) for path in _NULL]
        if confinement.listen is not None:
            rules.append((confinement.listen, landlock.LISTENING))
        if confinement.gpu:
            rules += [(path, landlock.DEVICE | landlock.WRITING) for path in (*gpu_devices(), _SHARED)]
            rules += [(path, landlock.READING | landlock.EXECUTE) for path in _PROGRAMS]
        try:
            landlock.restrict(rules, version=version)
        except OSError as error:  # more than 16 confinements in one another
            _logger.warning("Landlock: %s", error)
            version = 0
    filtered = seccomp.available()
    if filtered:
        try:
            limits.drop_capabilities(platform.machine())
            seccomp.restrict(
                gpu=confinement.gpu,
                listens=confinement.listen is not None,
                truncates=version >= landlock.TRUNCATE_ABI,
            )
        except (
            OSError
        ) as error:  # a kernel without filters, or one filter around this process that forbids more
            _logger.warning("seccomp: %s", error)
            filtered = False
    return Confined(version, filtered, missing(version, filtered=filtered))


def missing(version: int, *, filtered: bool) -> tuple[str, ...]:
    """What is not held by this version of Landlock, with or without a filter of system calls. Pure.

    Before its third version Landlock lets a process cut any file of the user's short (``truncate``), which
    the filter refuses then.
    """
    from ggufpack.confinement.landlock import TRUNCATE_ABI

    held = {
        "files": version >= TRUNCATE_ABI or (version > 0 and filtered),
        "attributes": filtered,
        "network": filtered,
        "processes": filtered,
        "signals": filtered or version >= 6,
    }
    return tuple(name for name, holds in held.items() if not holds)


def possible() -> Confined:
    """What would hold a process on this system; nothing is confined."""
    if os.environ.get(OFF_VARIABLE) == "1":
        return Confined(switched_off=True)
    if sys.platform != "linux":
        return Confined()
    from ggufpack.confinement import landlock, seccomp

    version, filtered = landlock.abi(), seccomp.available() and seccomp.in_kernel()
    return Confined(version, filtered, missing(version, filtered=filtered))
