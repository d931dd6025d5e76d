"""Worker side: output files that are written from front to back, and hashed on the way."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from ggufpack.errors import ConversionError, DiskSpaceError

WRITEBACK_BYTES = 32 << 20
_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h
_NO_PREALLOCATION = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


def check_space(folder: Path, sizes: Sequence[int]) -> None:
    """Refuse files that do not fit, before the first byte is written.

    Args:
        folder: of all files.
        sizes: bytes of each file.

    Raises:
        DiskSpaceError: their sum is larger than what is free.
    """
    status = os.statvfs(folder)
    free, needed = status.f_bavail * status.f_frsize, sum(sizes)
    if needed > free:
        raise DiskSpaceError(
            f"{folder}: {needed:,} bytes are needed and {free:,} are free.",
            action="Make room, or choose another folder with --output.",
            path=folder,
        )


class OutputFile:
    """A file of known size. Its blocks are reserved at once, its digest is made while it grows.

    Args:
        path: must not exist, or be empty.
        size: bytes in the end.

    Raises:
        OSError: there is something else, or the disk has no room for it.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        self.position = 0
        self._written_back = 0
        self._digest = hashlib.sha256()
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            if os.fstat(self._descriptor).st_size:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            with self._named():
                reserve(self._descriptor, size)
        except BaseException:
            os.close(self._descriptor)
            raise

    @contextmanager
    def _named(self) -> Iterator[None]:
        """A descriptor's errors do not say which file it is."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def append(self, data: Any) -> None:
        """Write bytes (any contiguous buffer) at the end."""
        view = memoryview(data).cast("B")
        self._digest.update(view)
        while view:
            with self._named():
                count = os.write(self._descriptor, view)
            view = view[count:]
            self.position += count
        if self.position - self._written_back >= WRITEBACK_BYTES:
            _start_writeback(self._descriptor, self._written_back, self.position - self._written_back)
            self._written_back = self.position

    def pad_to(self, offset: int) -> None:
        """Write zeros up to ``offset``.

        Raises:
            ConversionError: the file is past it already.
        """
        if offset < self.position:
            raise ConversionError(f"{self.path.name} is at byte {self.position}, past byte {offset}.")
        if offset > self.position:
            self.append(bytes(offset - self.position))

    def finish(self) -> str:
        """Make the file durable; its sha256 in hexadecimal.

        Raises:
            ConversionError: it has not its size.
        """
        if self.position != self.size:
            raise ConversionError(f"{self.path.name} has {self.position} bytes, not {self.size}.")
        with self._named():
            os.fsync(self._descriptor)
        return self._digest.hexdigest()

    def close(self) -> None:
        """Close it, finished or not."""
        os.close(self._descriptor)


def reserve(descriptor: int, size: int) -> None:
    """Make a file this long, with its blocks where the file system can do that.

    Raises:
        OSError: the disk has no room for it.
    """
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in _NO_PREALLOCATION:
                raise
        else:
            return
    os.ftruncate(descriptor, size)


def _start_writeback(descriptor: int, offset: int, count: int) -> None:
    """Let the disk work while the rest is computed: otherwise ``fsync`` waits for everything."""
    function = _sync_file_range()
    if function is not None:
        function(descriptor, offset, count, _SYNC_FILE_RANGE_WRITE)  # a hint: its result says nothing


@cache
def _sync_file_range() -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    function = ctypes.CDLL(None).sync_file_range
    function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return function
