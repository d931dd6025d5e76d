"""``ggufpack.json`` read back: typed, and refused with a sentence when it is damaged or another program's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ggufpack.checkpoint.jsonfiles import refuse_half_characters
from ggufpack.errors import UsageError
from ggufpack.package_folder import RECORD_NAME
from ggufpack.proofs import Verification
from ggufpack.report.decode import DecodeError, decode
from ggufpack.report.record import SCHEMA

# texts of fidelity and prompts are in it; the largest seen has 4 MB
MAX_RECORD_BYTES = 256 * 1024 * 1024
_AGAIN = "Build the package again, or restore the file."


@dataclass(frozen=True)
class Tensors:
    """What the checkpoint's weights are."""

    count: int
    bytes: int
    dtypes: Mapping[str, int]
    weights_digest: str = "not computed"


@dataclass(frozen=True)
class Source:
    """The checkpoint. ``files`` are the small ones with their SHA-256."""

    folder: str
    architecture: str
    files: Mapping[str, str]
    tensors: Tensors


@dataclass(frozen=True)
class File:
    """One GGUF: bytes, digest, and tensors by type."""

    quantization: str
    path: str
    size: int
    sha256: str
    tensor_types: Mapping[str, int]


@dataclass(frozen=True)
class FoundItem:
    """A finding, as it stands in the record."""

    id: str
    severity: Literal["error", "warning", "info", "unchecked"]
    message: str
    path: str | None = None
    key: str | None = None
    action: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What the build made: ``BuildResult`` without its places."""

    status: Literal["verified", "unverified", "failed"]
    name: str
    files: tuple[File, ...]
    registered: tuple[str, ...]
    verifications: tuple[Verification, ...]
    findings: tuple[FoundItem, ...]
    template: str
    engine: str | None = None
    modelfiles: Mapping[str, str] = field(default_factory=dict)
    modelfile_sha256: Mapping[str, str] = field(default_factory=dict)  # none in records before 2026-11-27
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_worker_rss: int | None = None
    projector: File | None = None


@dataclass(frozen=True)
class Record:
    """``ggufpack.json``, schema 1. What is only shown, and not computed with, stays as it is."""

    ggufpack: str
    created: str
    checkpoint: Source
    request: Mapping[str, Any]
    result: Outcome
    converter: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    imatrix: Mapping[str, Any] | None = None


def read_record(folder: Path) -> Mapping[str, Any]:
    """The record in a package folder, as JSON data.

    Raises:
        UsageError: no folder, no record in it, or a file that is not one JSON object.
    """
    path = folder / RECORD_NAME
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder.", action="Name a package folder.", path=folder)
    if not path.is_file():
        raise UsageError(
            f"{folder} holds no {RECORD_NAME}.",
            action="Name a package folder: one that `ggufpack build` made.",
            path=folder,
        )
    try:
        if path.stat().st_size > MAX_RECORD_BYTES:
            raise UsageError(f"{path} is larger than {MAX_RECORD_BYTES:,} bytes.", action=_AGAIN, path=path)
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
        refuse_half_characters(value, text)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.", path=path) from error
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{path} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}.",
            action=_AGAIN,
            path=path,
        ) from error
    except (ValueError, RecursionError) as error:  # not UTF-8, a number of 5,000 digits, 10,000 brackets
        raise UsageError(f"{path} is not JSON: {error}.", action=_AGAIN, path=path) from error
    if not isinstance(value, dict):
        raise UsageError(f"{path} must hold a JSON object.", action=_AGAIN, path=path)
    return value


def typed(record: Mapping[str, Any], source: Path | None = None) -> Record:
    """The record with types.

    Args:
        record: JSON data, as ``make_record`` makes it and ``read_record`` reads it.
        source: the file it is from, for messages.

    Raises:
        UsageError: another schema, or a key that is missing or of another kind; ``key`` names it.
    """
    where = RECORD_NAME if source is None else str(source)
    schema = record.get("schema")
    if isinstance(schema, bool) or schema != SCHEMA:
        found = "has no schema" if schema is None else f"has schema {schema!r:.40}"
        raise UsageError(
            f"{where} {found}; this ggufpack reads schema {SCHEMA}.",
            action="Use the ggufpack that made it, or build the package again.",
            path=source,
            key="schema",
        )
    try:
        return decode(Record, record)
    except DecodeError as error:
        raise UsageError(
            f"{where} is no record of ggufpack: {error}.", action=_AGAIN, path=source, key=error.key
        ) from error
