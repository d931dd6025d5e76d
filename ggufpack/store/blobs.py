"""The blobs of a store: a file under its final name is whole, and was seen to have its digest."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ggufpack.errors import StoreError
from ggufpack.resources import FULL, sync
from ggufpack.store.manifest import Blob

CHUNK = 1 << 20
_NAME = re.compile(r"sha256-([0-9a-f]{64})\Z")
_PARTIAL = ".ggufpack-partial"

OnBytes = Callable[[int], None]


class Source(Protocol):
    """What a blob is copied from."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""

    def seek(self, offset: int, /) -> int:
        """Go on from ``offset``."""


class BlobStore:
    """The folder ``blobs`` of a store. Every method may raise ``StoreError`` for what the disk refuses.

    Writers hold the store's lock (``StoreFolder.writing``): two copies of one blob share a name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, blob: Blob) -> Path:
        """Where it is, or would be (manifest/paths.go: BlobsPath)."""
        return self.folder / f"sha256-{blob.sha256}"

    def partial_path(self, blob: Blob) -> Path:
        """Where it is while it is copied. A server that prunes removes such names after an hour."""
        return self.folder / f"sha256-{blob.sha256}{_PARTIAL}"

    def has(self, blob: Blob) -> bool:
        """Whether there is a file of this name and size; its content is not read."""
        path = self.path(blob)
        return path.is_file() and path.stat().st_size == blob.size

    def is_whole(self, blob: Blob, on_bytes: OnBytes) -> bool:
        """Whether it is there with its digest; reads it."""
        if not self.has(blob):
            return False
        with refusals(self.path(blob)), self.path(blob).open("rb") as file:
            return bool(_hash(file, blob.size, on_bytes).hexdigest() == blob.sha256)

    def put(self, blob: Blob, source: Source, on_bytes: OnBytes, *, resume: bool = False) -> bool:
        """Copy a blob into the store, hashed on its way; one that is there whole is kept.

        Args:
            blob: what it must be.
            source: its content, from the beginning.
            on_bytes: told how many bytes were read, after each piece.
            resume: go on where an earlier copy broke off; and leave what there is when this one does.

        Returns:
            Whether it was written.

        Raises:
            WrongContentError: the source has another content; nothing is left of it then.
        """
        final, partial = self.path(blob), self.partial_path(blob)
        with refusals(final):
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.is_whole(blob, on_bytes):
                os.utime(final)  # as the server does (touchLayer): it prunes old ones that nothing names yet
                return False
            try:
                self._copy(blob, source, on_bytes, resume=resume)
                partial.replace(final)
            except BaseException as error:
                if not resume or isinstance(error, WrongContentError):
                    partial.unlink(missing_ok=True)
                raise
            try:
                sync(self.folder)
            except BaseException:
                if not resume:
                    final.unlink()
                raise
        return True

    def remove(self, blob: Blob) -> None:
        """Take it away."""
        with refusals(self.path(blob)):
            self.path(blob).unlink(missing_ok=True)

    def files(self) -> Iterator[tuple[str | None, Path]]:
        """Everything in the folder; with the digest in its name when it has a blob's name."""
        if not self.folder.is_dir():
            return
        with refusals(self.folder):
            for path in sorted(self.folder.iterdir()):
                named = _NAME.match(path.name)
                yield (named[1] if named else None), path

    def _copy(self, blob: Blob, source: Source, on_bytes: OnBytes, *, resume: bool) -> None:
        with self.partial_path(blob).open("a+b") as target:
            left = target.seek(0, os.SEEK_END) if resume else 0
            target.truncate(min(left, blob.size))
            target.seek(0)
            digest = _hash(target, blob.size, on_bytes)
            done = source.seek(target.seek(0, os.SEEK_END))
            while done < blob.size and (piece := source.read(min(CHUNK, blob.size - done))):
                target.write(piece)
                digest.update(piece)
                done += len(piece)
                on_bytes(len(piece))
            if done < blob.size or digest.hexdigest() != blob.sha256 or source.read(1):
                raise WrongContentError(blob.sha256)
            target.flush()
            os.fsync(target.fileno())


class WrongContentError(ValueError):
    """A content that is not the blob it is given as. Who gave it says what that means."""


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """What the system refuses inside the block leaves it as a sentence about ``path``.

    Raises:
        StoreError: with the ``OSError`` as its cause.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in FULL:
            raise StoreError(
                f"There is no room for {path}: {reason}",
                action="Free space there, or choose a folder on a larger disk.",
                path=path,
            ) from error
        raise StoreError(
            f"{error.filename or path} cannot be read or written: {reason}",
            action="Check that it is yours and that its disk is sound, or choose another --store.",
            path=path,
        ) from error


def _hash(file: Any, size: int, on_bytes: OnBytes) -> Any:
    digest = hashlib.sha256()
    left = size
    while left and (piece := file.read(min(CHUNK, left))):
        digest.update(piece)
        left -= len(piece)
        on_bytes(len(piece))
    return digest
