"""Folders that are not on this machine, by URL (``s3://bucket/run/checkpoint-5``), through fsspec.

A ``BuildSpec`` holds them as paths; ``Path`` makes ``s3:/bucket`` of ``s3://bucket``; ``url_of`` undoes that.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ggufpack.checkpoint.layout import is_training_state
from ggufpack.errors import CheckpointFileError, CheckpointLayoutError, DiskSpaceError, UsageError
from ggufpack.package_folder import RECORD_NAME

# a scheme of one letter would be a drive
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?!/)(.*)\Z")
_LOCAL = ("file", "local")
_CHUNK = 1 << 20


def url_of(path: Path) -> str | None:
    """The URL that a path stands for; ``None`` for an ordinary path."""
    match = _URL.match(str(path))
    if match is None:
        return None
    scheme, rest = match[1], match[2]
    return f"{scheme}:///{rest}" if scheme in _LOCAL else f"{scheme}://{rest}"


def joined(url: str, name: str) -> str:
    """The URL of what lies in a folder under a name."""
    return f"{url.rstrip('/')}/{name}"


def exists(url: str) -> bool:
    """Whether there is something under a URL.

    Raises:
        UsageError: the storage cannot be asked.
    """
    with _named(url):
        filesystem, root = _open(url)
        return bool(filesystem.exists(root))


def size_of(url: str) -> int:
    """Bytes of a file; 0 when there is none.

    Raises:
        UsageError: the storage cannot be asked.
    """
    with _named(url):
        filesystem, root = _open(url)
        return int(filesystem.size(root) or 0) if filesystem.exists(root) else 0


def fetch(url: str, into: Path) -> Path:
    """Copy a checkpoint to this machine, without what the trainer keeps for itself.

    Args:
        url: of the folder.
        into: an existing folder; gets a folder of the same name.

    Raises:
        CheckpointLayoutError: there is nothing under this URL.
        CheckpointFileError: a name leads out of the folder, or a file came incomplete.
        DiskSpaceError: there is no room for it.
        UsageError: the storage cannot be reached.
    """
    with _named(url):
        filesystem, root = _open(url)
        found: dict[str, dict[str, Any]] = filesystem.find(root, detail=True)
    target = into / PurePosixPath(root).name
    wanted = {
        name: info["size"] for name, info in found.items() if not is_training_state(PurePosixPath(name).name)
    }
    if not wanted:
        raise CheckpointLayoutError(f"{url} does not exist, or is empty.", action="Check the URL.")
    total, free = sum(wanted.values()), shutil.disk_usage(into).free
    if total > free:
        raise DiskSpaceError(
            f"{url} has {total / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in {into}.",
            action="Make room there, or set TMPDIR to a folder that has it.",
            path=into,
        )
    for name, size in wanted.items():
        inside = PurePosixPath(name).relative_to(root)
        if ".." in inside.parts:
            raise CheckpointFileError(f"{url} has a file whose name leads elsewhere: {inside}.")
        local = target / inside
        local.parent.mkdir(parents=True, exist_ok=True)
        with _named(url):
            filesystem.get_file(name, str(local))
        if local.stat().st_size != size:
            raise CheckpointFileError(f"{inside} of {url} came with {local.stat().st_size} of {size} bytes.")
    return target


def put(package: Path, url: str, *, overwrite: bool) -> None:
    """Copy a package folder to storage; each file is read back and compared by SHA-256.

    Where the storage can rename, the folder appears under its URL at once and whole. Where it cannot
    (object stores), the record is its last file: a folder without ``ggufpack.json`` is no package.

    Raises:
        UsageError: there is a package already and ``overwrite`` is off, or the storage failed.
    """
    with _named(url):
        filesystem, root = _open(url)
        there = filesystem.exists(root)
        if there and not overwrite:
            raise UsageError(f"{url} holds a package already.", action="Pass --overwrite to replace it.")
        if _can_rename(filesystem):
            _put_renamed(filesystem, package, root, replaces=there)
        else:
            _put_record_last(filesystem, package, root)


def _put_renamed(filesystem: Any, package: Path, root: str, *, replaces: bool) -> None:
    parent, name = PurePosixPath(root).parent, PurePosixPath(root).name
    scratch = str(parent / f".{name}.tmp-{uuid.uuid4().hex}")
    old = str(parent / f".{name}.old-{uuid.uuid4().hex}")
    filesystem.makedirs(str(parent), exist_ok=True)
    try:
        _upload(filesystem, package, scratch, _files(package))
        if replaces:
            filesystem.mv(root, old, recursive=True)
        filesystem.mv(scratch, root, recursive=True)
        if replaces:
            filesystem.rm(old, recursive=True)
    finally:
        if filesystem.exists(scratch):
            filesystem.rm(scratch, recursive=True)


def _put_record_last(filesystem: Any, package: Path, root: str) -> None:
    if filesystem.exists(root):
        record = f"{root}/{RECORD_NAME}"
        if filesystem.exists(record):
            filesystem.rm_file(record)
        filesystem.rm(root, recursive=True)
    names = sorted(_files(package), key=lambda name: name == RECORD_NAME)
    try:
        _upload(filesystem, package, root, names)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            filesystem.rm(root, recursive=True)
        raise


def _upload(filesystem: Any, package: Path, root: str, names: list[str]) -> None:
    for name in names:
        remote = f"{root}/{name}"
        filesystem.makedirs(str(PurePosixPath(remote).parent), exist_ok=True)
        filesystem.put_file(str(package / name), remote)
        with (package / name).open("rb") as ours, filesystem.open(remote, "rb") as theirs:
            if _sha256(ours) != _sha256(theirs):
                raise OSError(f"{name} was written and reads back as something else")


def _files(package: Path) -> list[str]:
    return sorted(path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file())


def _can_rename(filesystem: Any) -> bool:
    """Whether moving a folder is one step there: fsspec's own ``mv`` copies file by file, and deletes."""
    from fsspec.implementations.dirfs import DirFileSystem
    from fsspec.spec import AbstractFileSystem

    if isinstance(filesystem, DirFileSystem):
        return _can_rename(filesystem.fs)
    return type(filesystem).mv is not AbstractFileSystem.mv


def _sha256(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(_CHUNK):
        digest.update(block)
    return digest.hexdigest()


def _open(url: str) -> tuple[Any, str]:
    """The filesystem, and the path in it; nothing that another object listed earlier is believed."""
    import fsspec

    filesystem, root = fsspec.url_to_fs(url, use_listings_cache=False)
    filesystem.invalidate_cache()
    return filesystem, str(root).rstrip("/")


@contextlib.contextmanager
def _named(url: str) -> Iterator[None]:
    """What fsspec and its drivers raise (each its own), as an error that names the URL."""
    try:
        yield
    except (CheckpointFileError, UsageError):
        raise
    except ImportError as error:
        raise UsageError(
            f"{url} cannot be used: {error}.", action="Run: pip install 'ggufpack[ray]' and that driver."
        ) from error
    except Exception as error:
        said = next(iter(str(error).strip().splitlines()), "")
        raise UsageError(
            f"{url} cannot be used ({type(error).__name__}: {said}).",
            action="Check the URL, and the credentials of the machine that carries it out.",
        ) from error
