"""One builder of a package at a time, on storage that several machines share.

When the driver of a cluster's batch is killed, its builders live on for a moment. The next driver's builder
of the same item waits here until they are gone. The lock is a file beside the package (``flock``, which the
kernel lets go of when its holder ends).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

_POLL_SECONDS = 0.5
_HELD = (errno.EAGAIN, errno.EACCES)


class LocksMissingError(Exception):
    """The filesystem has no ``flock``."""


@contextlib.contextmanager
def only_builder(final: Path, token: str, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of a package folder.

    Args:
        final: the package folder; the one above it exists.
        token: of the item in its journal.
        on_wait: called again and again while another one holds it; what it raises ends the waiting.

    Raises:
        LocksMissingError: there are no locks here.
        OSError: the folder cannot be written.
    """
    path = final.with_name(f".{final.name}.lock-{token}")
    file = _lock(path, on_wait)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _lock(path: Path, on_wait: Callable[[], None]) -> IO[bytes]:
    while True:
        file = path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            if error.errno not in _HELD:
                path.unlink(missing_ok=True)
                raise LocksMissingError from error
            on_wait()
            time.sleep(_POLL_SECONDS)
            continue
        # whoever held it has removed the file at the end
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
        file.close()
