"""The lock of the vendored converter: which sdist, and which tree out of it.

The tree digest is the SHA-256 of a listing: for each file, in byte order of its path, the path with
``/`` relative to the tree, a NUL, the hex SHA-256 of the content, a line feed. Contents and names count,
modes and times do not. ``PROVENANCE.json`` is not part of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ggufpack import resources
from ggufpack.errors import VendorError
from ggufpack.packages import LOCK_FORMAT, LockedPackage, read_lock

LOCK_NAME = "llama.cpp.lock.toml"
PROVENANCE_NAME = "PROVENANCE.json"


@dataclass(frozen=True)
class Lock:
    """``llama.cpp.lock.toml``: which sdist, and which tree out of it.

    ``members`` are relative to ``prefix`` inside the sdist; one that ends in ``/`` is a whole folder.
    """

    package: LockedPackage
    prefix: str
    members: tuple[str, ...]
    tree_sha256: str
    commit: str
    build: str


def lock_path() -> Path:
    """Where the shipped lock is."""
    return resources.data_folder("vendor") / LOCK_NAME


def load_lock() -> Lock:
    """The shipped lock.

    Raises:
        VendorError: it cannot be read.
    """
    path = lock_path()
    package, document = read_lock(path)
    try:
        tree, upstream = document["tree"], document["upstream"]
        return Lock(
            package,
            tree["prefix"],
            tuple(tree["members"]),
            tree["sha256"],
            upstream["commit"],
            upstream["build"],
        )
    except (KeyError, TypeError) as error:
        raise VendorError(f"The lock {path} has no {error}", path=path) from error


def lock_text(lock: Lock) -> str:
    """The lock as the text of its file; ``load_lock`` reads it back."""
    package = lock.package
    members = "".join(f"    {json.dumps(member)},\n" for member in lock.members)
    return (
        "# Written by `ggufpack vendor update VERSION`; vendor/README.md says what it is for.\n"
        f"format = {LOCK_FORMAT}\n\n"
        "[package]\n"
        f"name = {json.dumps(package.name)}\n"
        f"version = {json.dumps(package.version)}\n"
        f"kind = {json.dumps(package.kind)}\n"
        f"sha256 = {json.dumps(package.sha256)}\n\n"
        "[tree]\n"
        f"prefix = {json.dumps(lock.prefix)}\n"
        f"members = [\n{members}]\n"
        f"sha256 = {json.dumps(lock.tree_sha256)}\n\n"
        "[upstream]\n"
        'name = "llama.cpp"\n'
        f"commit = {json.dumps(lock.commit)}\n"
        f"build = {json.dumps(lock.build)}\n"
        'license = "MIT"\n'
    )


def tree_digest(listing: Mapping[str, str]) -> str:
    """The digest of a tree from its listing ``{path: hex SHA-256}`` (module docstring)."""
    lines = (
        path.encode() + b"\0" + listing[path].encode() + b"\n" for path in sorted(listing, key=str.encode)
    )
    return hashlib.sha256(b"".join(lines)).hexdigest()
