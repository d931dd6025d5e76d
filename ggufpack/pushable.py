"""A package folder as what a registry is given: what its record says, and the server's name for it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ggufpack.errors import ModelNotFoundError, UsageError, VerificationError
from ggufpack.package_folder import RECORD_NAME
from ggufpack.report.reading import Outcome, read_record, typed
from ggufpack.spec import Finding, Severity

# ids of doctor's table: the same findings
PACKAGE_FAILED, PACKAGE_UNVERIFIED = "GP163", "GP164"
_SHA256 = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})\Z")


def package_at(model: str | os.PathLike[str]) -> Outcome | None:
    """The record's result, where ``model`` is a package folder, not a model's name: a folder may have one.

    Raises:
        UsageError: it can only be a folder, and is no package.
    """
    folder = Path(model)
    if (folder / RECORD_NAME).is_file() or folder.is_absolute() or os.fspath(model).startswith("."):
        return typed(read_record(folder), folder / RECORD_NAME).result
    return None


def check_status(package: Outcome, folder: Path) -> tuple[Finding, ...]:
    """A finding on a package that was never verified.

    Raises:
        VerificationError: it was, and failed.
    """
    path = folder / RECORD_NAME
    if package.status == "failed":
        raise VerificationError(
            f"{path} says failed: the package does not behave as trained, and is not pushed",
            action="Look at the verifications in the record, and build again.",
            path=path,
            key="status",
            finding=PACKAGE_FAILED,
        )
    if package.status == "verified":
        return ()
    message = f"{path} says {package.status}: whether it behaves as trained was never looked at"
    action = "Build it with --verify smoke, or run ggufpack verify on it."
    return (Finding(PACKAGE_UNVERIFIED, Severity.WARNING, message, path, "status", action),)


def registered_as(package: Outcome, folder: Path, tag: str) -> tuple[str, str]:
    """The server's name of a package, and its GGUF's SHA-256.

    Args:
        package: the record's result.
        folder: its folder, for messages.
        tag: of the name in the registry; the package's file of this type is taken, or else its first.

    Raises:
        ModelNotFoundError: it was not registered.
    """
    by_type = {file.quantization.lower(): file for file in package.files}
    chosen = tag.lower() if tag.lower() in by_type else next(iter(by_type), "")
    name = next((name for name in package.registered if name.lower().endswith(f":{chosen}")), None)
    if not chosen or name is None:
        raise ModelNotFoundError(
            f"The package {folder} was not registered as {package.name}:{chosen}",
            action="Build it with --register, on the server that shall push it.",
            path=folder,
        )
    return name, by_type[chosen].sha256


def expected_digests(expect: str | os.PathLike[str] | None) -> frozenset[str]:
    """Digests in hex, one of which a model must have: the one that is given, or a package's GGUFs'.

    Returns:
        nothing, where nothing is expected.

    Raises:
        UsageError: neither a digest nor a package.
    """
    if expect is None:
        return frozenset()
    if digest := _SHA256.match(os.fspath(expect)):
        return frozenset({digest[1].lower()})
    folder = Path(expect)
    if not folder.is_dir():
        raise UsageError(
            f'"{folder}" is neither a digest (sha256: and 64 hex digits) nor a package folder.',
            action="`ggufpack push` and a package's ggufpack.json give the digest.",
        )
    package = typed(read_record(folder), folder / RECORD_NAME).result
    return frozenset(file.sha256 for file in package.files)
