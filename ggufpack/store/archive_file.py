"""An archive as a file of expected members: anything else that a tar can hold is refused."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ggufpack.errors import ArchiveError, RefusedArchiveError

COPY_AGAIN = "Copy the archive again, completely, and import it again: what is here by now is kept."
# tarfile reads an extended header in one piece, of whatever size it says it has
_MAX_READ = 1 << 20
# what tarfile raises for damaged headers; chained long names are a recursion
HEADER_ERRORS = (tarfile.TarError, ValueError, OverflowError, RecursionError)


class ArchiveFile:
    """The archive's file as tarfile reads it; every read is bounded."""

    def __init__(self, path: Path, file: io.FileIO | BinaryIO) -> None:
        self.path = path
        self._file = file

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; fewer at the file's end."""
        if not 0 <= size <= _MAX_READ:
            raise self.refused(f"it has a header of {size:,} bytes")
        return self._file.read(size) or b""

    def seek(self, offset: int) -> int:
        """Go on from ``offset``."""
        return self._file.seek(offset)

    def tell(self) -> int:
        """Where it is."""
        return self._file.tell()

    @contextmanager
    def open_tar(self) -> Iterator[tarfile.TarFile]:
        """The tar, at its first member."""
        try:
            tar = tarfile.TarFile(fileobj=self, mode="r")  # type: ignore[arg-type]
        except HEADER_ERRORS as error:
            raise self.refused(f"it is no plain tar ({error})") from error
        with tar:
            yield tar

    def refused(self, problem: str) -> RefusedArchiveError:
        """The error for what an archive must not hold."""
        return RefusedArchiveError(
            f"{self.path} is no archive of a store: {problem}",
            action="Make it with `ggufpack store export`, and copy it as it is.",
            path=self.path,
        )

    def expect(self, tar: tarfile.TarFile, name: str, size: int | None) -> Member:
        """The next member, which must be this plain file.

        Args:
            tar: stands before it.
            name: that it must have.
            size: bytes that it must have; ``None`` for any.

        Raises:
            RefusedArchiveError: it is another one.
            ArchiveError: the file ends.
        """
        try:
            member = tar.next()
        except HEADER_ERRORS as error:
            if isinstance(error, tarfile.ReadError):  # what tarfile makes of a file that ends
                raise self.cut(f"before {name}") from error
            raise self.refused(f"the header of {name} is damaged ({error})") from error
        if member is None:
            raise self.cut(f"before {name}")
        if member.name != name:
            raise self.refused(f"{member.name!r:.200} is where {name} should be")
        if member.type != tarfile.REGTYPE or member.issparse():
            raise self.refused(f"{name} is no plain file")
        if member.size < 0 or (size is not None and member.size != size):
            raise self.refused(f"{name} has {member.size:,} bytes, not {size}")
        return Member(self, name, member.offset_data, member.size)

    def expect_end(self, tar: tarfile.TarFile) -> None:
        """Nothing may follow.

        Raises:
            RefusedArchiveError: something does.
        """
        try:
            more = tar.next()
        except HEADER_ERRORS as error:
            raise self.refused(f"something is behind its last member ({error})") from error
        if more is not None:
            raise self.refused(f"{more.name!r:.200} is behind its last member")

    def cut(self, where: str) -> ArchiveError:
        """The error for a file that ends too early; a damaged header looks no different to tarfile."""
        return ArchiveError(
            f"{self.path} ends or is damaged {where}, at byte {self.tell():,}",
            action=COPY_AGAIN,
            path=self.path,
        )


class Member:
    """The content of one member, from any place."""

    def __init__(self, archive: ArchiveFile, name: str, start: int, size: int) -> None:
        self._archive, self._name, self._start = archive, name, start
        self.size = size
        self._position = 0

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; none at its end."""
        wanted = min(size, self.size - self._position)
        if wanted == 0:
            return b""
        self._archive.seek(self._start + self._position)
        piece = self._archive.read(wanted)
        if not piece:
            raise self._archive.cut(
                f"inside {self._name}, after {self._position:,} of its {self.size:,} bytes"
            )
        self._position += len(piece)
        return piece

    def seek(self, offset: int) -> int:
        """Go on from ``offset``."""
        self._position = offset
        return offset

    def whole(self) -> bytes:
        """All of a small one."""
        pieces = []
        while piece := self.read(_MAX_READ):
            pieces.append(piece)
        return b"".join(pieces)
