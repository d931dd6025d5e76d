"""``ggufpack.json``: the record that lies in every package folder."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ggufpack import __version__
from ggufpack.checkpoint import Adaptation, Checkpoint
from ggufpack.errors import CheckpointFileError
from ggufpack.packages import sha256_of
from ggufpack.report.sbom import CONVERSION_PACKAGES
from ggufpack.spec import BuildResult, BuildSpec

SCHEMA = 1
_RECORDED_PACKAGES = (*CONVERSION_PACKAGES, "ollama", "xllamacpp")
_HASHED_SUFFIXES = frozenset({".json", ".jinja", ".model", ".txt"})


def make_record(
    spec: BuildSpec,
    checkpoint: Checkpoint,
    result: BuildResult,
    converter: Mapping[str, object],
    modelfiles: Mapping[str, str],
    readings: Mapping[str, object] | None = None,
    imatrix: Mapping[str, object] | None = None,
) -> dict[str, Any]:
    """The record as JSON data.

    Args:
        spec: what was asked for.
        checkpoint: what went in: small files by digest, tensors by name, dtype and shape. The
            weights themselves are not read again for a digest; that is said. Adapters have a digest
            of every file that counts.
        result: what came out.
        converter: package, version and tree digest of the vendored converter.
        modelfiles: SHA-256 of each Modelfile, by quantisation type.
        readings: what a Go TEMPLATE and the GGUF's Jinja reproduce of the chat template; ``None``
            without one.
        imatrix: the importance matrix: name, digest, entries, chunks; ``None`` without one.
    """
    result_json = result.to_json()
    for key in ("folder", "record"):
        del result_json[key]  # the folder may be moved
    projector = result_json["projector"]
    for file in (*result_json["files"], *([] if projector is None else [projector])):
        file["path"] = Path(file["path"]).name
    result_json["modelfiles"] = {key: path.name for key, path in result.package.modelfiles.items()}
    result_json["modelfile_sha256"] = dict(modelfiles)
    record = {
        "schema": SCHEMA,
        "ggufpack": __version__,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "checkpoint": {
            "folder": str(checkpoint.origin.resolve()),
            "architecture": checkpoint.architecture,
            "files": _digests(checkpoint.folder),
            "adapters": _adapters(checkpoint.adaptation),
            "tensors": {
                "count": len(checkpoint.tensors),
                "bytes": checkpoint.tensors.total_bytes,
                "dtypes": dict(checkpoint.tensors.dtypes),
                "weights_digest": "not computed",
            },
        },
        "request": {
            "quantizations": list(spec.quantizations),
            "template": spec.template,
            "system": spec.system,
            "parameters": {key: list(values) for key, values in spec.parameters.items()},
            "verify": spec.verify,
            "register": spec.register,
            "vision": spec.vision,
            "allow": sorted(spec.allow),
            "trust_remote_code": spec.trust_remote_code,
            "from": spec.from_model,
        },
        "converter": dict(converter),
        "chat_template": None if readings is None else dict(readings),
        "imatrix": None if imatrix is None else dict(imatrix),
        "versions": {"python": platform.python_version(), **_versions()},
        "result": result_json,
        **({} if spec.token is None else {"token": spec.token}),
    }
    named: dict[str, Any] = with_aliases(record, spec.aliases)
    return named


def with_aliases(value: Any, aliases: Mapping[str, str]) -> Any:
    """JSON data whose texts name the aliases (``BuildSpec.aliases``) in place of the folders."""
    if isinstance(value, str):
        for folder, alias in aliases.items():
            value = value.replace(folder, alias)
        return value
    if isinstance(value, Mapping):
        return {key: with_aliases(item, aliases) for key, item in value.items()}
    return [with_aliases(item, aliases) for item in value] if isinstance(value, (list, tuple)) else value


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write the record, indented, to a file that is not there yet."""
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    with path.open("x", encoding="utf-8") as file:
        file.write(text)


def _digests(folder: Path) -> dict[str, str]:
    small = sorted(path for path in folder.iterdir() if path.suffix in _HASHED_SUFFIXES and path.is_file())
    return {path.name: _digest(path) for path in small}


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CheckpointFileError(f"{path} cannot be read: {error.strerror or error}.", path=path) from error


def _adapters(adaptation: Adaptation | None) -> list[dict[str, Any]]:
    """The adapters that were merged, in their order."""
    return [
        {
            "folder": str(adapter.folder.resolve()),
            "weight": adapter.weight,
            "files": {path.name: sha256_of(path) for path in (adapter.config.path, adapter.weights_file)},
        }
        for adapter in (() if adaptation is None else adaptation.adapters)
    ]


def _versions() -> dict[str, str]:
    found = {}
    for name in _RECORDED_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
