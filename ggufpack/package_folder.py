"""The package folder ``DIR/NAME/``: filled beside its final place, then put there in one step."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ggufpack.errors import UsageError
from ggufpack.resources import sync

RECORD_NAME = "ggufpack.json"
_NO_LOCKS = frozenset({errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP})


@dataclass(frozen=True)
class PackageFolder:
    """A folder in the making.

    Attributes:
        final: where it will be.
        working: where files are written until ``publish``.
        token: part of temporary names.
    """

    final: Path
    working: Path
    token: str | None = None

    @contextlib.contextmanager
    def turn(self, *, overwrite: bool) -> Iterator[None]:
        """Wait until no other build puts its package into the folder above; others wait until this ends.

        Raises:
            UsageError: another build has taken the place meanwhile, and ``overwrite`` is off.
        """
        with _only_one(self.final.parent):
            check_free(self.final, overwrite=overwrite)
            yield

    def publish(self) -> None:
        """Put it in its place, in its ``turn``; an older package there is replaced as a whole."""
        for path in self.working.iterdir():
            sync(path)
        sync(self.working)
        old = replaced_folder(self.final, self.token)
        replaces = self.final.exists()
        if replaces:
            self.final.rename(old)
        self.working.rename(self.final)
        sync(self.final.parent)
        if replaces:
            shutil.rmtree(old)


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which is the folder itself: no file is left, and any user may take it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            # some network filesystems lock no folders: there the look before ``publish`` must do
            if error.errno not in _NO_LOCKS:
                raise
        yield
    finally:
        os.close(descriptor)


def check_free(final: Path, *, overwrite: bool) -> None:
    """Refuse a place that holds something else.

    Raises:
        UsageError: there is a package already and ``overwrite`` is off, or it is no package.
    """
    if not final.exists():
        return
    if not final.is_dir() or (any(final.iterdir()) and not (final / RECORD_NAME).is_file()):
        raise UsageError(
            f"{final} exists and is not a package of ggufpack.",
            action="Choose another --output or --name.",
            path=final,
        )
    if not overwrite and any(final.iterdir()):
        raise UsageError(
            f"{final} holds a package already.",
            action="Pass --overwrite to replace it, or choose another --output or --name.",
            path=final,
        )


def working_prefix(final: Path, token: str | None = None) -> str:
    """How the name of the folder in the making begins; it lies beside the final one."""
    return f".{final.name}.tmp-" if token is None else f".{final.name}.tmp-{token}-"


def replaced_folder(final: Path, token: str | None = None) -> Path:
    """Where an older package waits while the new one takes its place."""
    return final.with_name(f".{final.name}.old-{token or os.getpid()}")


@contextlib.contextmanager
def package_folder(final: Path, token: str | None = None) -> Iterator[PackageFolder]:
    """A folder to fill; whatever was not published is removed at the end, on errors as well.

    With a ``token`` its temporary names begin with ``working_prefix(final, token)``.

    Raises:
        UsageError: the folder above cannot be made.
    """
    made = not final.parent.exists()
    try:
        working = _make_working(final, token)
    except OSError as error:
        raise UsageError(
            f"{final.parent} cannot be written: {error.strerror or error}.",
            action="Choose another --output.",
            path=final.parent,
        ) from error
    working.chmod(0o755)
    try:
        yield PackageFolder(final, working, token)
    finally:
        shutil.rmtree(working, ignore_errors=True)
        if made:
            # it was made for this package; it stays when that, or another build's, is in it
            with contextlib.suppress(OSError):
                final.parent.rmdir()


def _make_working(final: Path, token: str | None) -> Path:
    while True:
        final.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # a build that failed has just removed it
            return Path(tempfile.mkdtemp(prefix=working_prefix(final, token), dir=final.parent))
