"""A folder for temporary files of one process, which is found when that is killed.

All of a user's lie in one folder of the machine's temporary folder; whoever comes next removes those whose
owners (``lease``) live no more. Another machine's are left alone, should they share a temporary folder.
"""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import tempfile
from pathlib import Path

from ggufpack.batch.lease import Lease, sweep
from ggufpack.errors import WorkerError


def own_scratch() -> Lease:
    """A lease whose ``scratch`` is the folder; what dead processes left is removed.

    Raises:
        WorkerError: the folder cannot be made, or is somebody else's.
    """
    area = scratch_area()
    try:
        area.mkdir(mode=0o700, exist_ok=True)
        status = area.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise WorkerError(f"{area} is not this user's folder.", action="Remove it, or set TMPDIR.")
        sweep(area / _NAME)
        return Lease(area / _NAME)
    except OSError as error:
        raise WorkerError(
            f"{area} cannot be written: {error.strerror or error}.", action="Set TMPDIR to another folder."
        ) from error


# short names: Ray's sockets are in these folders, and the path of one has at most 107 bytes
_NAME = "r"


def scratch_area() -> Path:
    """The folder of all of them."""
    whose = hashlib.sha256(f"{os.getuid()} {socket.gethostname()}".encode()).hexdigest()[:8]
    return Path(tempfile.gettempdir()) / f"ggp-{whose}"
