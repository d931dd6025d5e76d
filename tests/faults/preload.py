"""The library that makes the k-th call fail (``inject.c``): compiled once, steered through a mapped file."""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path

from tests.support.cache import cached_folder, key_of

_SOURCE = Path(__file__).with_name("inject.c")
_LAYOUT = struct.Struct("=qqiiIiqq32s480s")


class Action(IntEnum):
    """What happens in the chosen call. As in ``inject.c``."""

    COUNT = 0
    FAIL_ONCE = 1
    FAIL_ON = 2
    KILL = 3


class Kind(IntFlag):
    """Kinds of calls. As in ``inject.c``."""

    WRITE = 1
    SIZE = 2
    CREATE = 4
    RENAME = 8
    SYNC = 16
    LINK = 32
    FOLDER = 64
    REMOVE = 128
    READ = 256
    OPEN = 512
    MAP = 1024

    @classmethod
    def changing(cls) -> Kind:
        """All that change a disk, but for removing."""
        return cls.WRITE | cls.SIZE | cls.CREATE | cls.RENAME | cls.SYNC | cls.LINK | cls.FOLDER | cls.MAP

    @classmethod
    def all(cls) -> Kind:
        """All that change a disk."""
        return cls.changing() | cls.REMOVE

    @classmethod
    def growing(cls) -> Kind:
        """Those that a full disk refuses."""
        return cls.WRITE | cls.SIZE | cls.CREATE | cls.LINK | cls.FOLDER | cls.MAP


@dataclass(frozen=True)
class Seen:
    """What the library saw: calls that counted, those that were hit, and the first of these."""

    calls: int
    hits: int
    call: str
    path: str


class Preload:
    """One control file. ``environment`` goes to the processes."""

    def __init__(self, scratch: Path, folder: Path) -> None:
        self._file = scratch / "control"
        self._file.write_bytes(bytes(_LAYOUT.size))
        self.environment = {
            "LD_PRELOAD": str(library()),
            "FAULT_CONTROL": str(self._file),
            "FAULT_FOLDER": str(folder.resolve()),
        }

    def arm(
        self,
        chosen: int,
        action: Action,
        kinds: Kind,
        error: int = 0,
        clock: tuple[int, int] = (0, 0),
    ) -> None:
        """Choose a call, counted from 1; ``clock``: from which call on, and by how many seconds it jumps."""
        values = (0, chosen, action, error, kinds, 0, *clock, b"", b"")
        with self._file.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            mapped[: _LAYOUT.size] = _LAYOUT.pack(*values)

    def seen(self) -> Seen:
        """Since it was armed."""
        calls, _, _, _, _, hits, _, _, call, path = _LAYOUT.unpack(self._file.read_bytes())
        return Seen(calls, hits, *(os.fsdecode(text.split(b"\0")[0]) for text in (call, path)))


def compiler() -> str | None:
    """The C compiler."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def library() -> Path:
    """The compiled library.

    Raises:
        RuntimeError: there is no C compiler.
    """
    key = key_of(_SOURCE.read_text(encoding="utf-8"))
    return cached_folder(f"faults-{key}", _compile) / "inject.so"


def _compile(folder: Path) -> None:
    program = compiler()
    if program is None:
        raise RuntimeError("There is no C compiler.")
    words = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(folder / "inject.so")]
    subprocess.run([program, *words, str(_SOURCE), "-ldl"], check=True)
