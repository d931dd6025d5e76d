"""Where the project's own data files are (templates/ and vendor/), and durable files.

In a wheel they are inside the package (``ggufpack/_data``, put there by setup.py); in a checkout
and an editable install they are beside it.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from ggufpack.held import held_sibling

#: errno of a disk, a quota or a file system that is full
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_PACKAGE = Path(__file__).resolve().parent
_INSTALLED = _PACKAGE / "_data"


def data_folder(name: str) -> Path:
    """The folder ``templates`` or ``vendor``, as shipped."""
    root = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent
    return root / name


def in_checkout() -> bool:
    """Whether this is a source checkout (or an editable install of one)."""
    return not _INSTALLED.is_dir()


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, durable (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, content: bytes) -> None:
    """Write a file that is not there yet, durably."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_whole(path: Path, text: str) -> None:
    """Write a file that is whole under its name at every moment; one that is there is replaced."""
    with held_sibling(path) as (scratch, file):
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
        scratch.replace(path)
        sync(path.parent)
