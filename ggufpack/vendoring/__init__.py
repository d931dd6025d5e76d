"""The vendored llama.cpp converter: fetched, verified, extracted, checked before every use.

No third-party code is committed. ``vendor/llama.cpp.lock.toml`` pins a published sdist and the digest
of the tree that is taken from it. This module makes that tree and says whether a tree is that tree.

Where the tree is: ``vendor/llama.cpp`` in a checkout; inside the package when the wheel carries it;
else in the user's cache under its digest.

``PROVENANCE.json`` in the tree carries the listing whose digest the lock pins (``lock.tree_digest``): so
the file that is changed can be named, and a forged listing cannot pass.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ggufpack import resources
from ggufpack.errors import VendorError
from ggufpack.packages import (
    LockedPackage,
    cache_folder,
    download,
    download_unverified,
    exclusive,
    sha256_of,
)
from ggufpack.spec import EventHandler, Note, ignore_event
from ggufpack.vendoring.archive import read_members, upstream_commit
from ggufpack.vendoring.lock import PROVENANCE_NAME, Lock, load_lock, lock_path, lock_text, tree_digest

VendorState = Literal["absent", "ok", "outdated", "changed"]

TREE_NAME = "llama.cpp"


@dataclass(frozen=True)
class VendorStatus:
    """Whether the tree in ``folder`` is the locked one.

    ``outdated`` is a whole, untouched tree of another lock (replaced without asking); ``changed``
    names the files that differ, are missing, or do not belong there.
    """

    state: VendorState
    folder: Path
    package: str
    version: str
    commit: str
    build: str
    changed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    tree_sha256: str = ""

    def to_json(self) -> dict[str, object]:
        """The object that ``ggufpack vendor status --json`` prints."""
        return {**asdict(self), "folder": str(self.folder)}


@dataclass(frozen=True)
class LockUpdate:
    """What ``update`` wrote: the lock before and after, and the files that differ (by their paths)."""

    before: Lock
    after: Lock
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """The object that ``ggufpack vendor update --json`` prints."""
        return asdict(self)


# --- what callers use -------------------------------------------------------


def status() -> VendorStatus:
    """Compare the tree on disk with the lock. Reads every file of it (some milliseconds)."""
    lock = load_lock()
    return _status(lock, _tree_folder(lock))


def files_of(found: VendorStatus) -> dict[str, str]:
    """Path → SHA-256 in hex of every file of the locked tree; empty unless ``found`` is that tree."""
    return _recorded_listing(found.folder) if found.state == "ok" else {}


def require(on_event: EventHandler = ignore_event) -> Path:
    """The verified folder that the worker puts on its path; fetched on first use.

    The worker also adds ``gguf-py`` below it. Start it with ``-X pycache_prefix=FOLDER``: then no
    bytecode is written into the tree, and none that somebody planted there is run.

    Raises:
        VendorError: the tree was changed, or cannot be fetched.
    """
    lock = load_lock()
    # a tree that another process replaces in this moment may look like anything: sync looks again, alone
    with suppress(FileNotFoundError):
        found = _status(lock, _tree_folder(lock))
        if found.state == "ok":
            return found.folder
    return sync(on_event=on_event).folder


def sync(
    source: Path | None = None, *, force: bool = False, on_event: EventHandler = ignore_event
) -> VendorStatus:
    """Make the tree the locked one. Does nothing when it is.

    The new tree is complete and verified in a sibling folder before it takes the name, so an
    interrupted sync leaves what was there.

    Args:
        source: the sdist as a file, for machines without an index; ``None`` fetches it.
        force: replace a tree in which somebody changed files.
        on_event: told about the fetch and the result.

    Raises:
        VendorError: the sdist cannot be fetched or is not the locked one, the tree was changed and
            ``force`` is off, or the folder cannot be written.
    """
    lock = load_lock()
    folder = _tree_folder(lock)
    with exclusive(folder):
        found = _status(lock, folder)
        if found.state == "ok":
            return found
        if found.state == "changed" and not force:
            raise _changed_error(found)
        if source is None:
            archive = download(**asdict(lock.package), folder=cache_folder() / "packages", on_event=on_event)
        else:
            archive = source
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(folder)
            scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.tmp", dir=folder.parent))
            try:
                new = scratch / "new"
                _extract(archive, lock, new)
                _swap(new, folder, scratch / "old")
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        except OSError as error:
            raise VendorError(
                f"The converter cannot be written to {folder} ({error})", path=folder
            ) from error
        on_event(Note(f"llama.cpp's converter ({lock.package.name} {lock.package.version}) is in {folder}"))
        return _status(lock, folder)


def update(version: str, build: str = "", on_event: EventHandler = ignore_event) -> LockUpdate:
    """Write the lock for another release of the package: for maintainers, in a checkout.

    The sdist is fetched without a known hash: this is where trust is given, so read the difference
    before committing the lock. ``sync`` then makes the tree.

    Args:
        version: the release.
        build: llama.cpp's build number (``b11434``) for people; the sdist tells only the commit.
        on_event: told about the fetch.

    Raises:
        VendorError: not a checkout, the release cannot be fetched, or it lacks a listed member.
    """
    if not resources.in_checkout():
        raise VendorError("The lock can only be updated in a checkout of ggufpack")
    before = load_lock()
    name = before.package.name
    on_event(Note(f"Fetching {name} {version} WITHOUT a known hash: review what it changes"))
    with tempfile.TemporaryDirectory() as scratch:
        archive = download_unverified(name, version, before.package.kind, Path(scratch))
        root = archive.name.removesuffix(".tar.gz")
        prefix = f"{root}/{before.prefix.split('/', 1)[1]}"
        package = LockedPackage(name, version, before.package.kind, sha256_of(archive))
        with archive.open("rb") as file:
            files = read_members(file, prefix, before.members)
            file.seek(0)
            commit = upstream_commit(file, root)
    listing = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    after = Lock(package, prefix, before.members, tree_digest(listing), commit, build)
    old = _recorded_listing(_tree_folder(before))
    resources.write_whole(lock_path(), lock_text(after))
    return LockUpdate(
        before,
        after,
        added=tuple(sorted(listing.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - listing.keys())),
        changed=tuple(sorted(path for path in listing.keys() & old.keys() if listing[path] != old[path])),
    )


# --- places -----------------------------------------------------------------


def _tree_folder(lock: Lock) -> Path:
    shipped = resources.data_folder("vendor") / TREE_NAME
    if resources.in_checkout() or shipped.is_dir():
        return shipped
    return cache_folder() / "vendor" / lock.tree_sha256[:16] / TREE_NAME


# --- comparing --------------------------------------------------------------


def _status(lock: Lock, folder: Path) -> VendorStatus:
    def result(state: VendorState, **files: Any) -> VendorStatus:
        package = lock.package
        return VendorStatus(
            state=state,
            folder=folder,
            package=package.name,
            version=package.version,
            commit=lock.commit,
            build=lock.build,
            tree_sha256=lock.tree_sha256,
            **files,
        )

    if not os.path.lexists(folder):
        return result("absent")
    recorded = _recorded_listing(folder)
    if not recorded:
        return result("changed", changed=(PROVENANCE_NAME,))
    actual = _listing(folder, bytecode=not _is_shipped(folder))
    differing = tuple(
        path for path in sorted(recorded.keys() & actual.keys()) if recorded[path] != actual[path]
    )
    missing = tuple(sorted(recorded.keys() - actual.keys()))
    extra = tuple(sorted(actual.keys() - recorded.keys()))
    if differing or missing or extra:
        return result("changed", changed=differing, missing=missing, extra=extra)
    if tree_digest(recorded) != lock.tree_sha256:
        # consistent with its own record: the tree of another lock, or one that somebody re-recorded
        return result("outdated")
    if (folder / PROVENANCE_NAME).read_text(encoding="utf-8") != _provenance_text(lock, recorded):
        return result("changed", changed=(PROVENANCE_NAME,))
    return result("ok")


def _is_shipped(folder: Path) -> bool:
    """Whether the tree is inside an installed wheel, where installers byte-compile what they unpack."""
    return not resources.in_checkout() and folder.parent == resources.data_folder("vendor")


def _listing(folder: Path, *, bytecode: bool) -> dict[str, str]:
    """Path → hex SHA-256 of all that lies in the tree; what is no regular file gets no digest.

    ``bytecode=False`` leaves out ``__pycache__``: a wheel's installer fills it, and the worker's
    ``pycache_prefix`` keeps Python from reading it.
    """
    found: dict[str, str] = {}

    def fail(error: OSError) -> None:
        raise error

    for here, folders, names in os.walk(folder, onerror=fail):
        if not bytecode:
            folders[:] = [name for name in folders if name != "__pycache__"]
        for name in [*names, *(name for name in folders if (Path(here) / name).is_symlink())]:
            path = Path(here) / name
            key = path.relative_to(folder).as_posix()
            regular = path.is_file() and not path.is_symlink()
            found[key] = sha256_of(path) if regular else "not a regular file"
    found.pop(PROVENANCE_NAME, None)
    return found


def _recorded_listing(folder: Path) -> dict[str, str]:
    """The listing in the tree's provenance file; empty when there is none that can be used."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        files = json.loads((folder / PROVENANCE_NAME).read_text(encoding="utf-8"))["files"]
        if isinstance(files, dict) and all(isinstance(value, str) for value in files.values()):
            return files
    return {}


def _changed_error(found: VendorStatus) -> VendorError:
    groups = {"changed": found.changed, "missing": found.missing, "not part of it": found.extra}
    said = "; ".join(
        f"{what}: {', '.join(paths[:5])}{' …' if paths[5:] else ''}"
        for what, paths in groups.items()
        if paths
    )
    first = (*found.changed, *found.missing, *found.extra)
    return VendorError(
        f"The vendored converter in {found.folder} is not the locked one ({said})",
        action="Run: ggufpack vendor sync --force",
        path=found.folder / first[0] if first else found.folder,
    )


# --- the archive ------------------------------------------------------------


def _extract(archive: Path, lock: Lock, folder: Path) -> None:
    """Verify ``archive`` and write the locked tree, with its provenance, into the new ``folder``."""
    try:
        file = archive.open("rb")
    except OSError as error:
        raise VendorError(f"The sdist {archive} cannot be read ({error.strerror})", path=archive) from error
    with file:
        actual = sha256_of(file)
        if actual != lock.package.sha256:
            raise VendorError(
                f"{archive} has SHA-256 {actual}, the lock says {lock.package.sha256}",
                action=f"Give the sdist of {lock.package.name} {lock.package.version}.",
                path=archive,
            )
        file.seek(0)  # the same open file: nobody can swap it between the check and the use
        files = read_members(file, lock.prefix, lock.members)
    listing = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    digest = tree_digest(listing)
    if digest != lock.tree_sha256:
        raise VendorError(
            f"The tree in {archive} has digest {digest}, the lock says {lock.tree_sha256}", path=archive
        )
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        resources.write_new(folder / path, content)
    resources.write_new(folder / PROVENANCE_NAME, _provenance_text(lock, listing).encode())


# --- writing ----------------------------------------------------------------


def _provenance_text(lock: Lock, listing: Mapping[str, str]) -> str:
    """Where the tree comes from. No date and no path: the same lock gives the same bytes."""
    document: dict[str, Any] = {
        "package": lock.package.name,
        "version": lock.package.version,
        "sdist_sha256": lock.package.sha256,
        "prefix": lock.prefix,
        "tree_sha256": tree_digest(listing),
        "upstream": "llama.cpp",
        "commit": lock.commit,
        "build": lock.build,
        "license": "MIT (LICENSE, gguf-py/LICENSE)",
        "files": dict(sorted(listing.items())),
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _swap(new: Path, folder: Path, old: Path) -> None:
    """Give ``folder`` its new content; on failure the old one is put back."""
    moved = os.path.lexists(folder)
    if moved:
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if moved:
            old.rename(folder)
        raise


def _remove_leftovers(folder: Path) -> None:
    """Remove scratch folders of runs that were killed; the caller holds the lock."""
    for leftover in folder.parent.glob(f".{folder.name}.tmp*"):
        shutil.rmtree(leftover, ignore_errors=True)
