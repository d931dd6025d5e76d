"""The package folder ``DIR/NAME/``: filled beside its final place, then put there in one step."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ggufpack.errors import DiskSpaceError, UsageError
from ggufpack.resources import FULL, sync

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

    def make_durable(self) -> None:
        """Before anything has a final name: what may fail here leaves nothing to take back.

        Raises:
            UsageError: the disk refuses.
            DiskSpaceError: there is no room.
        """
        with refusals(self.final):
            for path in self.working.iterdir():
                sync(path)
            sync(self.working)

    def publish(self) -> None:
        """Put it in its place, in its ``turn``; an older package there is replaced as a whole.

        Raises:
            UsageError: the disk refuses; the older package stays then.
            DiskSpaceError: there is no room.
        """
        with refusals(self.final):
            old = replaced_folder(self.final, self.token)
            replaces = self.final.exists()
            if replaces:
                self.final.rename(old)
            try:
                self.working.rename(self.final)
                sync(self.final.parent)
            except OSError:
                if not self.working.exists():
                    self.final.rename(self.working)
                if replaces:
                    old.rename(self.final)
                raise
            if replaces:
                shutil.rmtree(old)


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which is the folder itself: no file is left, and any user may take it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise unwritable(folder, error) from error
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
def refusals(path: Path) -> Iterator[None]:
    """What the system refuses to write inside the block leaves it as a sentence about ``path``.

    Raises:
        DiskSpaceError: the disk, or the user's share of it, is full.
        UsageError: it cannot be written for another reason.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskSpaceError(
                f"There is no room for {path}: {error.strerror}.",
                action="Make room, or choose another --output.",
                path=path,
            ) from error
        raise unwritable(path, error) from error


@contextlib.contextmanager
def parent_folder(final: Path) -> Iterator[None]:
    """Make the folders above a package; at the end those go that were made and are still empty.

    Raises:
        UsageError: they cannot be made.
    """
    missing = [folder for folder in final.parents if not folder.exists()]
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(final.parent, error) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # somebody else uses it
            for folder in missing:
                folder.rmdir()


@contextlib.contextmanager
def package_folder(final: Path, token: str | None = None) -> Iterator[PackageFolder]:
    """A folder to fill; whatever was not published is removed at the end, on errors as well.

    With a ``token`` its temporary names begin with ``working_prefix(final, token)``.

    Raises:
        UsageError: the folder above cannot be made.
    """
    with parent_folder(final):
        working = _make_working(final, token)
        try:
            working.chmod(0o755)
            yield PackageFolder(final, working, token)
        finally:
            shutil.rmtree(working, ignore_errors=True)


def _make_working(final: Path, token: str | None) -> Path:
    try:
        while True:
            final.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # a build that failed has just removed it
                return Path(tempfile.mkdtemp(prefix=working_prefix(final, token), dir=final.parent))
    except OSError as error:
        raise unwritable(final.parent, error) from error


def clean_up(final: Path, token: str) -> None:
    """Remove what a killed build left there; a package that it had moved aside is put back.

    Raises:
        UsageError: it cannot be removed.
    """
    old = replaced_folder(final, token)
    if old.is_dir():
        if final.exists():
            shutil.rmtree(old)
        else:
            old.rename(final)
    if final.parent.is_dir():
        prefix = working_prefix(final, token)
        for path in [path for path in final.parent.iterdir() if path.name.startswith(prefix)]:
            _remove(path)


def _remove(folder: Path) -> None:
    """A builder that is just being ended may still write into it. Probes of a cluster's driver are files."""
    if not folder.is_dir():
        folder.unlink(missing_ok=True)
        return
    for last in (*[False] * 50, True):
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            if not folder.exists():
                return
        except OSError as error:
            if last or error.errno != errno.ENOTEMPTY:
                raise UsageError(
                    f"{folder}, which a killed build left, cannot be removed: {error.strerror or error}.",
                    action="Remove it, and run again.",
                    path=folder,
                ) from error
        else:
            return
        time.sleep(0.1)


def unwritable(folder: Path, error: OSError) -> UsageError:
    """What the system refuses to write there, as a sentence."""
    return UsageError(
        f"{folder} cannot be written: {error.strerror or error}.",
        action="Choose another --output.",
        path=folder,
    )
