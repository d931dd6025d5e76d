"""A package folder of ours: the record, the files that it names, its Modelfiles and GGUFs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ggufpack.checkpoint.jsonfiles import read_object
from ggufpack.confinement import Confined
from ggufpack.doctor.examination import DEEP, Log
from ggufpack.doctor.findings import make_finding
from ggufpack.doctor.modelfile import check_modelfile
from ggufpack.errors import CheckpointError
from ggufpack.package_folder import RECORD_NAME
from ggufpack.packages import sha256_of
from ggufpack.spec import Finding

RECORD, FILES, DIGESTS, STATUS, MODELFILES = "record", "files", "digests", "verification", "Modelfiles"
AS_VERIFIED = "Modelfile against the record"
SCHEMA = 1  # report.record.SCHEMA
_REBUILD = "Build the package again, or copy it again, completely."


def check_package(log: Log, folder: Path) -> None:
    """All checks of a package folder."""
    record = None
    with log.check(RECORD):
        record = _read_record(log, folder)
    result = (record or {}).get("result")
    if not isinstance(result, dict):
        log.skip_all((FILES, DIGESTS, STATUS), "the record cannot be read")
        modelfiles = {path.name: path.name for path in sorted(folder.glob("Modelfile*"))}
        log.skip(AS_VERIFIED, "the record cannot be read")
    else:
        with log.check(FILES):
            _check_files(log, folder, result)
        if log.deep:
            with log.check(DIGESTS):
                _check_digests(log, folder, result)
        else:
            log.skip(DIGESTS, DEEP)
        with log.check(STATUS):
            _check_status(log, folder, result)
        recorded = result.get("modelfiles")
        modelfiles = {
            str(key): name
            for key, name in (recorded if isinstance(recorded, dict) else {}).items()
            if _is_plain(name)
        }
        _check_modelfile_digests(log, folder, modelfiles, result.get("modelfile_sha256"))
    if not modelfiles:
        log.skip(MODELFILES, "there is no Modelfile")
    for kind, name in modelfiles.items():
        _check_modelfile(log, folder, kind, name, result if isinstance(result, dict) else {})


def _read_record(log: Log, folder: Path) -> dict[str, Any] | None:
    path = folder / RECORD_NAME
    try:
        record = read_object(path)
    except CheckpointError as error:
        log.add([make_finding("GP160", error.problem, path=path, action="Build the package again.")])
        return None
    if record.get("schema") != SCHEMA or not isinstance(record.get("result"), dict):
        log.add(
            [
                make_finding(
                    "GP160",
                    f"{path} has schema {record.get('schema')!r}, and this ggufpack reads {SCHEMA}.",
                    path=path,
                    key="schema",
                    action="Use the ggufpack that made it, or build the package again.",
                )
            ]
        )
        return None
    log.facts |= {
        "name": record["result"].get("name"),
        "status": record["result"].get("status"),
        "ggufpack": record.get("ggufpack"),
        "created": record.get("created"),
        "template": record["result"].get("template"),
    }
    confined = record["result"].get("confinement")
    if isinstance(confined, dict):
        with contextlib.suppress(ValueError, TypeError):  # a stranger's record may say anything
            log.facts["confinement_recorded"] = Confined.from_json(confined).to_json()
    return record


def _recorded(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    files = result.get("files")
    return [
        file
        for file in (*(files if isinstance(files, list) else []), result.get("projector"))
        if isinstance(file, dict) and _is_plain(file.get("path"))
    ]


def _is_plain(name: object) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name


def _check_files(log: Log, folder: Path, result: Mapping[str, Any]) -> None:
    named = {file["path"] for file in _recorded(result)}
    for file in _recorded(result):
        path = folder / file["path"]
        if not path.is_file():
            log.add([_missing(path)])
        elif isinstance(file.get("size"), int) and path.stat().st_size != file["size"]:
            log.add(
                [
                    make_finding(
                        "GP162",
                        f"{path} has {path.stat().st_size:,} bytes, and {file['size']:,} were recorded.",
                        path=path,
                        key="size",
                        action=_REBUILD,
                    )
                ]
            )
    modelfiles = result.get("modelfiles")
    for name in modelfiles.values() if isinstance(modelfiles, dict) else ():
        if _is_plain(name) and not (folder / name).is_file():
            log.add([_missing(folder / name)])
    for path in sorted(folder.glob("*.gguf")):
        if path.name not in named:
            log.add(
                [
                    make_finding(
                        "GP165",
                        f"{path} is not in the record: nothing is known about it.",
                        path=path,
                        action=f"Move it away, or run ggufpack doctor {path}",
                    )
                ]
            )


def _missing(path: Path) -> Finding:
    return make_finding("GP161", f"{path} is in the record, and it is not there.", path=path, action=_REBUILD)


def _check_digests(log: Log, folder: Path, result: Mapping[str, Any]) -> None:
    for file in _recorded(result):
        path = folder / file["path"]
        if not path.is_file():
            continue
        _check_digest(log, path, file.get("sha256"))


def _check_modelfile_digests(log: Log, folder: Path, modelfiles: Mapping[str, str], digests: object) -> None:
    if not isinstance(digests, dict) or not digests:
        log.skip(AS_VERIFIED, "the record holds no digest of it")
        return
    with log.check(AS_VERIFIED):
        for kind, name in modelfiles.items():
            if (folder / name).is_file():
                _check_digest(log, folder / name, digests.get(kind))


def _check_digest(log: Log, path: Path, recorded: object) -> None:
    digest = sha256_of(path)
    if digest != recorded:
        log.add(
            [
                make_finding(
                    "GP162",
                    f"{path} has sha256 {digest[:12]}…, and {str(recorded)[:12]}… was recorded: it is not the"
                    " file that was verified.",
                    path=path,
                    key="sha256",
                    action=_REBUILD,
                )
            ]
        )


def _check_status(log: Log, folder: Path, result: Mapping[str, Any]) -> None:
    path, status = folder / RECORD_NAME, result.get("status")
    if status == "failed":
        log.add(
            [
                make_finding(
                    "GP163",
                    f"{path} says failed: the package does not behave as trained.",
                    path=path,
                    key="status",
                    action="Look at the verifications in the record, and build again.",
                )
            ]
        )
    elif status != "verified":
        log.add(
            [
                make_finding(
                    "GP164",
                    f"{path} says {status}: whether the package behaves as trained was never looked at.",
                    path=path,
                    key="status",
                    action="Build it with --verify smoke, or run ggufpack verify on it.",
                )
            ]
        )


def _check_modelfile(log: Log, folder: Path, kind: str, name: str, result: Mapping[str, Any]) -> None:
    path = folder / name
    if not path.is_file():
        return  # told with the files
    modelfile = check_modelfile(log, path)
    expected = next((file["path"] for file in _recorded(result) if file.get("quantization") == kind), None)
    if modelfile is None or expected is None:
        return
    # an adapter lies on a model of the server
    key, named = ("ADAPTER", modelfile.adapters[0]) if modelfile.adapters else ("FROM", modelfile.from_)
    if Path(named).name != expected:
        log.add(
            [
                make_finding(
                    "GP162",
                    f"{path}: {key} is {named}, and the record has {expected} for {kind}.",
                    path=path,
                    key=key,
                    action=f"Write {key} ./{expected}",
                )
            ]
        )
