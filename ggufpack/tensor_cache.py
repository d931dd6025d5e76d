"""Encoded blocks of tensors, kept between builds: a content-addressed store with a size bound.

    FOLDER/ab/abcd….Q4_K     32 bytes: BLAKE3 of the block, keyed with the entry's own key; the block

An entry never changes: its key stands for everything that its block depends on (``convert.reuse``). It is
written under a temporary name and renamed, so several processes may share a folder. It is not made
durable, nor need it be: nothing is trusted without its digest, and an entry that fails is removed. An
entry's modification time is when it was made, its access time when it was last used.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from ggufpack.errors import UsageError
from ggufpack.packages import cache_folder

SIZE_VARIABLE = "GGUFPACK_CACHE_SIZE"
LARGEST_DEFAULT = 20 * 10**9
DISK_SHARE = 10  # the default bound is at most a tenth of the disk
SPARED_SHARE = 20  # a twentieth of the disk stays free, within these bounds
LEAST_SPARED = 10**9
MOST_SPARED = 10**10
PRUNED_SHARE = 10  # a full cache is emptied by a tenth, so that not every entry looks for room
UNFINISHED_SECONDS = 3600.0  # after which nobody writes a temporary file any more
DIGEST_BYTES = 32
KEY_BYTES = 32

_NAME = re.compile(r"([0-9a-f]{64})\.([A-Z0-9_]+)\Z")
_FOLDER = re.compile(r"[0-9a-f]{2}\Z")
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30, "TI": 1 << 40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """One block in the cache.

    Attributes:
        kind: tensor type of its block.
        size: bytes on disk.
        made, used: seconds since the epoch.
    """

    path: Path
    kind: str
    size: int
    made: float
    used: float

    @property
    def used_again(self) -> bool:
        """Whether it was read since it was made."""
        return self.used > self.made


@dataclass(frozen=True)
class Removed:
    """What was removed from the cache."""

    entries: int
    bytes: int


def default_folder() -> Path:
    """The user's tensor cache."""
    return cache_folder() / "tensors"


def check_folder(folder: Path) -> Path:
    """``folder``, unless it is something else.

    Raises:
        UsageError: it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(
            f"The tensor cache {folder} is not a folder.", action="Name a folder with --cache.", path=folder
        )
    return folder


def parse_size(text: str) -> int:
    """Bytes of ``"20GB"``, ``"1.5 GiB"`` or ``"500000"``.

    Raises:
        UsageError: it is no size.
    """
    match = _SIZE.match(text)
    unit = None if match is None else {**_UNITS, **_BINARY}.get(match[2].upper())
    if match is None or unit is None:
        raise UsageError(f"{text!r} is no size.", action="Write it like 500MB, 20GB or 1.5GiB.")
    return int(float(match[1]) * unit)


def size_limit(folder: Path) -> int:
    """Bytes that a cache may hold: ``GGUFPACK_CACHE_SIZE``, or 20 GB and at most a tenth of the disk.

    Raises:
        UsageError: the variable is no size.
    """
    text = os.environ.get(SIZE_VARIABLE)
    if text:
        try:
            return parse_size(text)
        except UsageError as error:
            raise UsageError(f"{SIZE_VARIABLE}: {error.problem}", action=error.action) from None
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return min(LARGEST_DEFAULT, shutil.disk_usage(existing).total // DISK_SHARE)


def spared(disk: int) -> int:
    """Bytes that a cache leaves free on a disk of this size: a twentieth, from 1 GB to 10 GB."""
    return min(max(disk // SPARED_SHARE, LEAST_SPARED), MOST_SPARED)


class TensorCache:
    """A folder of entries, for one job. Safe in threads, and beside other processes.

    Args:
        folder: made when the first entry is stored.
        limit: bytes; ``None`` is ``size_limit``.

    Attributes:
        damaged: entries that were found damaged, and removed.
        refused: why nothing is stored any more, as a sentence; ``None`` while there is room.

    Raises:
        UsageError: ``folder`` is a file.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self.folder = check_folder(folder)
        self.limit = size_limit(folder) if limit is None else limit
        self.damaged = 0
        self.refused: str | None = None
        self._total: int | None = None  # bytes in the folder, counted before the first entry is stored
        self._begun = time.time() - 1  # file systems' clocks are coarse
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def read(self, key: bytes, kind: str, out: Any) -> bool:
        """Fill ``out`` (a contiguous buffer of the block's size) from the cache.

        Returns:
            whether it is what was stored under this key. Where it is not, ``out`` holds anything.
        """
        return self._read(key, kind, lambda _: memoryview(out).cast("B")) is not None

    def read_all(self, key: bytes, kind: str) -> bytes | None:
        """A block of unknown size; ``None`` where there is none that is whole."""
        found = self._read(key, kind, lambda size: memoryview(bytearray(size)))
        return None if found is None else found.tobytes()

    def _read(self, key: bytes, kind: str, buffer: Callable[[int], memoryview]) -> memoryview | None:
        """``buffer`` is asked for the block's size on disk."""
        path = self._path(key, kind)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            status = os.fstat(descriptor)
            out = buffer(max(0, status.st_size - DIGEST_BYTES))
            whole = _read_entry(descriptor, key, out)
            if whole:
                with contextlib.suppress(OSError):  # a cache that may only be read
                    os.utime(descriptor, ns=(time.time_ns(), status.st_mtime_ns))
        except OSError:
            whole = False
        finally:
            os.close(descriptor)
        if whole:
            return out
        with contextlib.suppress(OSError):  # it is found damaged every time
            path.unlink(missing_ok=True)
        with self._lock:
            self.damaged += 1
        return None

    def store(self, key: bytes, kind: str, data: Any) -> int:
        """Keep a block, if there is room.

        Returns:
            bytes that it takes; 0 where it was not stored, and ``refused`` says why.
        """
        view = memoryview(data).cast("B")
        size = DIGEST_BYTES + view.nbytes
        if self.refused is not None:
            return 0
        path = self._path(key, kind)
        scratch = path.with_name(f".{path.name}.{os.getpid()}-{next(self._numbers)}")
        try:
            if not self._take_room(size):
                return 0
            _write_entry(scratch, blake3(view, key=key).digest(), view)
            scratch.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)
            self._refuse(error.strerror or type(error).__name__)
            return 0
        return size

    def _take_room(self, size: int) -> bool:
        with self._lock:
            if self._total is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                remove_unfinished(self.folder)
                self._total = sum(entry.size for entry in entries(self.folder))
            if self._total + size > self.limit:
                # what this job has used or made stays: it would be read in this order again
                kept = self.limit - max(size, self.limit // PRUNED_SHARE)
                prune(self.folder, kept, unused_since=self._begun)
                self._total = sum(entry.size for entry in entries(self.folder))
            disk = shutil.disk_usage(self.folder)
            if self._total + size > self.limit:
                self._refuse(f"it is full of this job's own ({self.limit:,} bytes)")
            elif disk.free - size < spared(disk.total):
                self._refuse(f"the disk has only {disk.free:,} bytes free")
            else:
                self._total += size
            return self.refused is None

    def _refuse(self, reason: str) -> None:
        self.refused = f"{self.folder}: nothing more is put into the tensor cache, {reason}"

    def _path(self, key: bytes, kind: str) -> Path:
        name = key.hex()
        return self.folder / name[:2] / f"{name}.{kind}"


def entries(folder: Path) -> Iterator[Entry]:
    """All entries, in no order. Other files are passed over."""
    for inner in _folders(folder):
        with os.scandir(inner) as found:
            for item in found:
                match = _NAME.match(item.name)
                if match is None:
                    continue
                try:
                    status = item.stat(follow_symlinks=False)
                except FileNotFoundError:  # another process removed it
                    continue
                used = max(status.st_atime, status.st_mtime)
                yield Entry(Path(item.path), match[2], status.st_size, status.st_mtime, used)


def prune(folder: Path, limit: int, unused_since: float | None = None) -> Removed:
    """Remove the least recently used entries until the rest fits into ``limit`` bytes.

    Args:
        folder: the cache.
        limit: bytes.
        unused_since: seconds since the epoch; what was used later stays in any case.
    """
    found = sorted(entries(folder), key=lambda entry: entry.used)
    total = sum(entry.size for entry in found)
    removed = []
    for entry in found:
        if total <= limit or (unused_since is not None and entry.used >= unused_since):
            break
        entry.path.unlink(missing_ok=True)
        removed.append(entry.size)
        total -= entry.size
    return Removed(len(removed), sum(removed))


def remove_older(folder: Path, seconds: float) -> Removed:
    """Remove entries that were not used in the last ``seconds``."""
    return prune(folder, 0, unused_since=time.time() - seconds)


def remove_unfinished(folder: Path) -> int:
    """Remove temporary files of processes that were killed; how many there were."""
    removed = 0
    for inner in _folders(folder):
        for path in inner.iterdir():
            name = path.name.removeprefix(".").rpartition(".")[0]
            if path.name.startswith(".") and _NAME.match(name) is not None:
                try:
                    if path.stat().st_mtime < time.time() - UNFINISHED_SECONDS:
                        path.unlink()
                        removed += 1
                except FileNotFoundError:  # renamed by now, or removed by another process
                    continue
    return removed


def remove_damaged(folder: Path) -> tuple[int, Removed]:
    """Read every entry, and remove those that are not what was stored; how many were read, and those."""
    checked, removed = 0, []
    for entry in entries(folder):
        checked += 1
        try:
            with entry.path.open("rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                out = memoryview(bytearray(max(0, status.st_size - DIGEST_BYTES)))
                whole = _read_entry(file.fileno(), bytes.fromhex(entry.path.name[: 2 * KEY_BYTES]), out)
                os.utime(file.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))  # this was no use
        except FileNotFoundError:
            continue
        if not whole:
            entry.path.unlink(missing_ok=True)
            removed.append(entry.size)
    return checked, Removed(len(removed), sum(removed))


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if _FOLDER.match(path.name) and path.is_dir()]


def _read_entry(descriptor: int, key: bytes, out: memoryview) -> bool:
    """Fill ``out``; whether the file ends there and its digest is right."""
    if os.fstat(descriptor).st_size != DIGEST_BYTES + out.nbytes:
        return False
    digest = bytearray(DIGEST_BYTES)
    if os.preadv(descriptor, [digest, out], 0) != DIGEST_BYTES + out.nbytes:
        return False
    return blake3(out, key=key).digest() == digest


def _write_entry(path: Path, digest: bytes, data: memoryview) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o644)
    except FileNotFoundError:
        path.parent.mkdir(exist_ok=True)
        descriptor = os.open(path, flags, 0o644)
    try:
        written = os.writev(descriptor, [digest, data])
        while written < DIGEST_BYTES + data.nbytes:  # a signal, or a file system near its end
            written += os.write(descriptor, data[written - DIGEST_BYTES :])
    finally:
        os.close(descriptor)
