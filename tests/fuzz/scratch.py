"""A temporary folder of this process, in memory where the system has such a place."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

FOLDER_VARIABLE = "GGUFPACK_FUZZ_SCRATCH"  # given by a parent that removes it: libFuzzer ends without atexit
_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - the folder below it has a random name


@functools.cache
def folder() -> Path:
    """It is there until the process ends."""
    given = os.environ.get(FOLDER_VARIABLE)
    if given:
        return Path(given)
    made = make()
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def make() -> Path:
    """A new one, that the caller removes."""
    return Path(tempfile.mkdtemp(prefix="ggufpack-fuzz-", dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None))


def put(name: str, data: bytes) -> Path:
    """A file with this content."""
    path = folder() / name
    path.write_bytes(data)
    return path
