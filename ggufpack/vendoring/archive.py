"""Reading the listed members of an sdist, and nothing else of it."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import BinaryIO

from ggufpack.errors import VendorError
from ggufpack.vendoring.lock import PROVENANCE_NAME

# far above the real tree (116 files, 2 MiB, largest 0.25 MiB): what stops a hostile archive
_MAX_FILE = 8 << 20
_MAX_TREE = 64 << 20
_MAX_FILES = 4000
_MAX_ARCHIVE = 4 << 30
_MAX_MEMBERS = 200_000


def read_members(file: BinaryIO, prefix: str, members: tuple[str, ...]) -> dict[str, bytes]:
    """The listed files of a tar archive: path relative to ``prefix`` → content.

    Nothing else of the archive is used, and the listed part may hold plain files and folders only.

    Raises:
        VendorError: a path that leaves the folder, a link or device, something too large, or a
            listed member that is not there.
    """
    files: dict[str, bytes] = {}
    declared = count = total = 0
    try:
        with tarfile.open(fileobj=file, mode="r|gz") as tar:
            for entry in tar:
                count += 1
                declared += entry.size
                if declared > _MAX_ARCHIVE or count > _MAX_MEMBERS:
                    raise VendorError("The sdist unpacks to more than a source archive can hold")
                path = entry.name.removeprefix(prefix)
                if path == entry.name or not _is_listed(path, members) or entry.isdir():
                    continue
                _check_entry(entry, path, files)
                total += entry.size
                if entry.size > _MAX_FILE or total > _MAX_TREE or len(files) >= _MAX_FILES:
                    raise VendorError(f"{entry.name} makes the converter larger than it can be")
                content = tar.extractfile(entry)
                files[path] = b"" if content is None else content.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise VendorError(f"The sdist is not a whole tar.gz archive ({error})") from error
    for member in members:
        if not any(_is_listed(path, (member,)) for path in files):
            raise VendorError(f"The sdist has no {prefix}{member}")
    return files


def _is_listed(path: str, members: tuple[str, ...]) -> bool:
    """Whether a member takes ``path``. A folder's own name is listed too: it must not be a link."""
    return any(
        path == member.rstrip("/") or (member.endswith("/") and path.startswith(member)) for member in members
    )


def _check_entry(entry: tarfile.TarInfo, path: str, files: Mapping[str, bytes]) -> None:
    # sparse files count as regular for tarfile; no source file is one
    if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or entry.issparse():
        raise VendorError(f"{entry.name} in the sdist is a link, a device or another special file")
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in path or PurePosixPath(path).is_absolute():
        raise VendorError(f"{entry.name!r} in the sdist is not a plain relative path")
    if path in files:
        raise VendorError(f"{entry.name} is in the sdist twice")
    if path == PROVENANCE_NAME:
        raise VendorError(f"{entry.name} in the sdist has the name of the provenance file")


def upstream_commit(file: BinaryIO, root: str) -> str:
    """The llama.cpp commit, from the git metadata that the sdist happens to carry; or ``""``."""
    wanted = f"{root}/.git/modules/vendor/llama.cpp/HEAD"
    with tarfile.open(fileobj=file, mode="r|gz") as tar:
        for entry in tar:
            if entry.name == wanted and entry.isreg() and entry.size < 200:
                content = tar.extractfile(entry)
                return "" if content is None else content.read().decode("ascii", "replace").strip()
    return ""
