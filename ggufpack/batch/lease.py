"""A sign of life: a file beside the journal that is locked for as long as its owner lives.

The kernel lets go of ``flock`` when the last process that holds it ends, however it ends; so there is no
guessing by process ids, which come again. Processes that work for the owner hold the lock as well: only
when none of them is left, nothing of the owner's can be written any more.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
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

    Raises:
        OSError: the folder cannot be written; the owner of ``name`` lives no more.
    """

    def __init__(self, journal: Path, name: str | None = None) -> None:
        self._own = name is None
        self.name = name or secrets.token_hex(6)
        self._path = _path(journal, self.name)
        #: for temporary files; whoever finds the lease dead removes it
        self.scratch = _scratch(self._path)
        self._file = self._lock()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give it back; its files go with the owner."""
        if self._own:
            shutil.rmtree(self.scratch, ignore_errors=True)
            self._path.unlink(missing_ok=True)
        self._file.close()

    def _lock(self) -> IO[bytes]:
        while True:
            file = self._path.open("ab" if self._own else "rb")
            fcntl.flock(file, fcntl.LOCK_SH)
            # somebody may have found it before it was locked, and removed it as a dead one's
            if self._path.exists() and os.path.samestat(os.fstat(file.fileno()), self._path.stat()):
                self.scratch.mkdir(exist_ok=True)
                return file
            file.close()


def is_held(journal: Path, name: str) -> bool:
    """Whether somebody who holds this lease lives. What a dead one left is removed."""
    path = _path(journal, name)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        shutil.rmtree(_scratch(path), ignore_errors=True)
        path.unlink(missing_ok=True)
        return False


def sweep(journal: Path) -> None:
    """Remove what dead owners left beside a journal."""
    prefix = f"{journal.name}."
    for path in list(journal.parent.iterdir()):
        if path.name.startswith(prefix) and path.name.endswith(_SUFFIX):
            is_held(journal, path.name[len(prefix) : -len(_SUFFIX)])


def owner_words() -> str:
    """This process, for people: host and process id."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def _path(journal: Path, name: str) -> Path:
    return journal.with_name(f"{journal.name}.{name}{_SUFFIX}")


def _scratch(lease: Path) -> Path:
    return lease.with_suffix(".tmp")
