"""A sign of life: a file beside the journal that is locked for as long as its owner lives.

The kernel lets go of ``flock`` when the last process that holds it ends, however it ends; so there is no
guessing by process ids, which come again. Processes that work for the owner hold the lock as well: only
when none of them is left, nothing of the owner's can be written any more.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
from pathlib import Path
from types import TracebackType
from typing import IO

_SUFFIX = ".lease"


class Lease:
    """Held from its making until ``close``. A context manager.

    Args:
        journal: beside which the file lies.
        name: of a lease to hold together with its owner; ``None`` makes a new one.
    """

    def __init__(self, journal: Path, name: str | None = None) -> None:
        self._own = name is None
        self.name = name or secrets.token_hex(6)
        self._path = _path(journal, self.name)
        self._file: IO[bytes] = self._path.open("ab")
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give it back; the file goes with its owner."""
        if self._own:
            self._path.unlink(missing_ok=True)
        self._file.close()


def is_held(journal: Path, name: str) -> bool:
    """Whether somebody who holds this lease lives. A file that nobody holds is removed."""
    path = _path(journal, name)
    try:
        file = path.open("rb+")
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        path.unlink(missing_ok=True)
        return False


def owner_words() -> str:
    """This process, for people: host and process id."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def _path(journal: Path, name: str) -> Path:
    return journal.with_name(f"{journal.name}.{name}{_SUFFIX}")
