"""A package folder, checked before anything of it leaves the machine."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ggufpack.doctor.findings import make_finding
from ggufpack.errors import ModelfileError, UsageError
from ggufpack.findings import refuse_errors
from ggufpack.modelfile.model import Modelfile
from ggufpack.modelfile.parse import parse
from ggufpack.package_folder import RECORD_NAME
from ggufpack.packages import sha256_of
from ggufpack.report.reading import File, Record, read_record, typed
from ggufpack.report.view import make_view
from ggufpack.spec import EventHandler, Finding, Note, Severity, ignore_event

_REBUILD = "Build the package again, or copy it again, completely."


@dataclass(frozen=True)
class CheckedPackage:
    """A package whose files are those of its record.

    Attributes:
        folder: where it is.
        data: the record as JSON data.
        record: the same with types.
        modelfiles: by quantisation type.
    """

    folder: Path
    data: Mapping[str, Any]
    record: Record
    modelfiles: Mapping[str, Modelfile]


def read_package(folder: Path) -> tuple[Mapping[str, Any], Record]:
    """The record of a package, raw and typed; no other file is read.

    Raises:
        UsageError: no package, or a damaged record.
    """
    data = read_record(folder)
    return data, typed(data, folder / RECORD_NAME)


def check_package(
    folder: Path, allowed: Collection[str] = (), on_event: EventHandler = ignore_event
) -> CheckedPackage:
    """Read a package, and every byte of its GGUFs: only what was verified may go out under its figures.

    Args:
        folder: the package folder.
        allowed: ids of findings that are accepted: GP163 (it failed its verification), GP164 (it was
            never verified).
        on_event: gets a note for each file.

    Raises:
        UsageError: no package, a damaged record, or a record that names files outside the folder.
        CheckpointError: GP161 to GP164.
        ModelfileError: a Modelfile that cannot be read.
    """
    data, record = read_package(folder)
    refuse_errors(_status_findings(folder, record), allowed)
    result = record.result
    modelfiles = {
        kind: _read_modelfile(_inside(folder, name), kind) for kind, name in result.modelfiles.items()
    }
    for kind, digest in result.modelfile_sha256.items():
        refuse_errors(_digest_findings(_inside(folder, result.modelfiles.get(kind, "")), digest), ())
    for file in result.files:
        on_event(Note(f"Checking {file.path}"))
        refuse_errors(_file_findings(_inside(folder, file.path), file), ())
    return CheckedPackage(folder, data, record, modelfiles)


def _status_findings(folder: Path, record: Record) -> list[Finding]:
    path, status = folder / RECORD_NAME, make_view(record).status
    if status == "verified":
        return []
    if status == "failed":
        finding = make_finding(
            "GP163", f"{path} says failed: the package does not behave as trained.", path=path, key="status"
        )
    else:
        finding = make_finding(
            "GP164",
            f"{path} says {status}: whether the package behaves as trained is not known.",
            path=path,
            key="status",
        )
    # a warning for its owner, but others would take it for proven
    action = "Build it again with --verify fidelity."
    return [replace(finding, severity=Severity.ERROR, action=action)]


def _file_findings(path: Path, file: File) -> list[Finding]:
    if not path.is_file():
        problem = f"{path} is in the record, and it is not there."
        return [make_finding("GP161", problem, path=path, action=_REBUILD)]
    size = path.stat().st_size
    if size != file.size:
        problem = f"{path} has {size:,} bytes, and {file.size:,} were recorded."
        return [make_finding("GP162", problem, path=path, key="size", action=_REBUILD)]
    return _digest_findings(path, file.sha256)


def _digest_findings(path: Path, recorded: str) -> list[Finding]:
    digest = sha256_of(path)
    if digest == recorded:
        return []
    problem = f"{path} has sha256 {digest[:12]}…, and {recorded[:12]}… was recorded."
    return [make_finding("GP162", problem, path=path, key="sha256", action=_REBUILD)]


def _inside(folder: Path, name: str) -> Path:
    if name in ("", ".", "..") or Path(name).name != name:
        raise UsageError(
            f"{folder / RECORD_NAME} names {name!r}, which is no file of its folder.",
            action="Build the package again.",
            path=folder / RECORD_NAME,
        )
    return folder / name


def _read_modelfile(path: Path, kind: str) -> Modelfile:
    try:
        return parse(path.read_bytes().decode())
    except FileNotFoundError:
        raise ModelfileError(
            f"{path}, the Modelfile of {kind}, is not there.", action=_REBUILD, path=path
        ) from None
    except UnicodeDecodeError:
        raise ModelfileError(f"{path} is not UTF-8 text.", action=_REBUILD, path=path) from None
