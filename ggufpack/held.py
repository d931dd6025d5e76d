"""Files and folders that are locked (``flock``) for as long as the process lives that made them.

The kernel lets go of the lock when its holder ends, however it ends. So what a killed process left is told
from what a living one uses without guessing by process ids or times, and the next one removes it. On a file
system without locks nobody can tell, and nothing is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@contextlib.contextmanager
def held_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """A new folder, removed at the end; those of killed processes with this prefix go first.

    Args:
        prefix: of its name; all folders with it are made here.
        parent: where; ``None`` is the folder for temporary files.

    Raises:
        OSError: it cannot be made.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    remove_dead(parent, prefix)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        descriptor = hold(folder)
        if descriptor is not None:
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


@contextlib.contextmanager
def held_sibling(final: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside ``final``, to be renamed to it; what was not renamed goes at the end.

    Those of killed processes go first.

    Raises:
        OSError: it cannot be made.
    """
    prefix = f".{final.name}.tmp-"
    remove_dead(final.parent, prefix)
    while True:
        descriptor, name = tempfile.mkstemp(prefix=prefix, dir=final.parent)
        with os.fdopen(descriptor, "wb") as file:
            held = hold(Path(name))
            if held is None:
                continue
            try:
                os.fchmod(descriptor, 0o644)
                yield Path(name), file
            finally:
                Path(name).unlink(missing_ok=True)
                os.close(held)
            return


def hold(path: Path) -> int | None:
    """Lock a file or folder that was just made.

    Returns:
        the descriptor that holds the lock; ``None`` when somebody took it for a dead one's before it was
        locked, and removed it.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    if _is_at(descriptor, path):
        return descriptor
    os.close(descriptor)
    return None


def take_dead(path: Path) -> int | None:
    """The lock of a file or folder of this user whose maker lives no more; ``None`` for any other."""
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError:
        return None
    try:
        if os.fstat(descriptor).st_uid == os.getuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                return descriptor
    except OSError:  # held, or there are no locks here
        pass
    os.close(descriptor)
    return None


def remove_dead(parent: Path, prefix: str) -> None:
    """Remove files and folders whose names begin with ``prefix``, and whose makers live no more."""
    for path in [path for path in parent.iterdir() if path.name.startswith(prefix)]:
        descriptor = take_dead(path)
        if descriptor is None:
            continue
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False
