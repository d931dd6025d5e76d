"""Folders between this machine and storage by URL: checkpoints come, packages go."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import uuid
from pathlib import Path, PurePosixPath
from typing import Any

from ggufpack.batch import storage
from ggufpack.batch.model_files import model_files
from ggufpack.batch.storage import Filesystem, named, opened
from ggufpack.batch.waiting import TooManyBytesError, get_file
from ggufpack.errors import CheckpointFileError, CheckpointLayoutError, DiskSpaceError, UsageError
from ggufpack.package_folder import RECORD_NAME, replaced_folder, working_prefix
from ggufpack.packages import sha256_of

# in a package that is being put where folders cannot be renamed; it holds the token of whoever puts it
UNFINISHED = ".ggufpack-unfinished"


# --- checkpoints ----------------------------------------------------------------


def sizes(url: str) -> dict[str, int]:
    """Name to bytes of the files that a build reads (``model_files``).

    Raises:
        CheckpointLayoutError: there is nothing under this URL.
        CheckpointFileError: a name leads out of the folder.
        UsageError: the storage cannot be reached.
    """
    found = storage.listing(url, 2)
    if not found:
        raise CheckpointLayoutError(f"{url} does not exist, or is empty.", action="Check the URL.")
    return {name: found[name] for name in model_files(found)}


def fetch(url: str, into: Path) -> Path:
    """Copy a checkpoint or an adapter to this machine: the files that a build reads.

    Args:
        url: of the folder.
        into: an existing folder; gets a folder of the same name.

    Raises:
        CheckpointFileError: a file came incomplete.
        DiskSpaceError: there is no room for it.
        GgufpackError: as ``sizes``.
    """
    wanted = sizes(url)
    total, free = sum(wanted.values()), shutil.disk_usage(into).free
    if total > free:
        raise DiskSpaceError(
            f"{url} has {total / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in {into}.",
            action="Make room there, or put temporary files elsewhere (local: --journal FILE; ray: TMPDIR).",
            path=into,
        )
    target = into / PurePosixPath(url).name
    for name, size in wanted.items():
        local = target / name
        local.parent.mkdir(parents=True, exist_ok=True)
        try:
            with named(url):
                there = opened(url)
                get_file(there.handle, there.path(name), local, size)
        except TooManyBytesError as error:
            raise CheckpointFileError(f"{name} of {url} has more than the {size} bytes listed.") from error
        if not local.is_file():
            raise CheckpointFileError(f"{name} of {url} came as something else than a file.")
        if local.stat().st_size != size:
            raise CheckpointFileError(f"{name} of {url} came with {local.stat().st_size} of {size} bytes.")
    return target


# --- packages -------------------------------------------------------------------


def check_free(url: str, *, overwrite: bool) -> None:
    """Refuse a place that holds something else (``package_folder.check_free``).

    Raises:
        UsageError: there is a package already and ``overwrite`` is off, or it is no package.
    """
    with named(url):
        there = opened(url)
        if not there.handle.find(there.root):
            return
        is_package = bool(there.handle.exists(there.path(RECORD_NAME)))
    if not is_package:
        raise UsageError(
            f"{url} exists and is not a package of ggufpack.", action="Choose another --output or --name."
        )
    if not overwrite:
        raise UsageError(
            f"{url} holds a package already.",
            action="Pass --overwrite to replace it, or choose another --output or --name.",
        )


def put(package: Path, url: str, *, token: str, overwrite: bool) -> None:
    """Copy a package folder to storage; each file is read back and compared by SHA-256.

    Where the storage can rename, the folder appears under its URL at once and whole. Where it cannot
    (object stores), the record is its last file: a folder without ``ggufpack.json`` is no package.

    Args:
        package: the folder.
        url: that it gets.
        token: by which ``clean_up`` knows what is left when this is killed.
        overwrite: replace a package.

    Raises:
        UsageError: as ``check_free``, or the storage failed.
    """
    check_free(url, overwrite=overwrite)
    with named(url):
        there = opened(url)
        if _can_rename(there.handle):
            _put_renamed(there, package, token)
        else:
            _put_record_last(there, package, token)


def clean_up(url: str, token: str) -> None:
    """Remove what a ``put`` with this token left; a package that it had moved aside is put back.

    Raises:
        UsageError: the storage cannot be used.
    """
    with named(url):
        there = opened(url)
        if _can_rename(there.handle):
            _clean_up_renamed(there, token)
        else:
            _clean_up_unfinished(there, token)


def _put_renamed(there: Filesystem, package: Path, token: str) -> None:
    handle, root = there.handle, there.root
    old = _beside(there, replaced_folder(Path(root), token).name)
    scratch = _beside(there, f"{working_prefix(Path(root), token)}{uuid.uuid4().hex}")
    handle.makedirs(_beside(there, ""), exist_ok=True)
    try:
        _upload(handle, package, scratch, _files(package))
        if handle.exists(root):
            handle.mv(root, old, recursive=True)
        handle.mv(scratch, root, recursive=True)
    finally:
        _clean_up_renamed(there, token)


def _clean_up_renamed(there: Filesystem, token: str) -> None:
    handle, root = there.handle, there.root
    old = _beside(there, replaced_folder(Path(root), token).name)
    if handle.exists(old):
        if handle.exists(root):
            handle.rm(old, recursive=True)
        else:
            handle.mv(old, root, recursive=True)
    if handle.exists(parent := _beside(there, "")):
        prefix = working_prefix(Path(root), token)
        for path in handle.ls(parent, detail=False):
            if PurePosixPath(path).name.startswith(prefix):
                handle.rm(path, recursive=True)


def _put_record_last(there: Filesystem, package: Path, token: str) -> None:
    handle = there.handle
    handle.pipe_file(there.path(UNFINISHED), token.encode())
    try:
        if handle.exists(there.path(RECORD_NAME)):
            handle.rm_file(there.path(RECORD_NAME))
        for name in handle.find(there.root):
            if PurePosixPath(name).name != UNFINISHED:
                handle.rm_file(name)
        names = sorted(_files(package), key=lambda name: name == RECORD_NAME)
        _upload(handle, package, there.root, names)
    finally:
        _clean_up_unfinished(there, token)


def _clean_up_unfinished(there: Filesystem, token: str) -> None:
    """A folder with a record is whole; without one it is what was put of it so far."""
    handle = there.handle
    marker = there.path(UNFINISHED)
    if not handle.exists(marker) or handle.cat_file(marker) != token.encode():
        return
    if not handle.exists(there.path(RECORD_NAME)):
        for name in handle.find(there.root):
            if PurePosixPath(name).name != UNFINISHED:
                handle.rm_file(name)
    handle.rm_file(marker)
    with contextlib.suppress(FileNotFoundError):
        if not handle.find(there.root):  # folders of their own exist in few stores
            handle.rm(there.root, recursive=True)


def _beside(there: Filesystem, name: str) -> str:
    parent = str(PurePosixPath(there.root).parent)
    return f"{parent.rstrip('/')}/{name}" if name else parent


def _upload(handle: Any, package: Path, root: str, names: list[str]) -> None:
    for name in names:
        remote = f"{root}/{name}"
        handle.makedirs(str(PurePosixPath(remote).parent), exist_ok=True)
        handle.put_file(str(package / name), remote)
        with handle.open(remote, "rb") as theirs:
            if storage.hashed(theirs, hashlib.sha256()) != sha256_of(package / name):
                raise OSError(f"{name} was written and reads back as something else")


def _files(package: Path) -> list[str]:
    return sorted(path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file())


def _can_rename(handle: Any) -> bool:
    """Whether moving a folder is one step there: others copy file by file, and delete."""
    from fsspec.implementations.dirfs import DirFileSystem
    from fsspec.spec import AbstractFileSystem

    if isinstance(handle, DirFileSystem):
        return _can_rename(handle.fs)
    ours = type(handle).__module__.startswith("fsspec.implementations.")  # drivers of object stores are not
    return ours and type(handle).mv is not AbstractFileSystem.mv
