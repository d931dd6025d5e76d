"""Packages that a batch finds in place: whether they are its own, whole, and registered as they were."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ggufpack.errors import ModelExistsError, ServerUnreachableError
from ggufpack.package_folder import RECORD_NAME, replaced_folder, working_prefix
from ggufpack.packages import sha256_of
from ggufpack.pipeline import Target
from ggufpack.registry import OllamaServer, leftovers

_MAX_RECORD_BYTES = 256 << 20


def digest_of(path: Path) -> str | None:
    """sha256 in hex; ``None`` when there is no such file."""
    try:
        return sha256_of(path)
    except FileNotFoundError:
        return None


def read_own_record(folder: Path, token: str) -> Mapping[str, Any] | None:
    """The record of a package that was made with this token; ``None`` for any other folder."""
    path = folder / RECORD_NAME
    try:
        if path.stat().st_size > _MAX_RECORD_BYTES:
            return None
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or none of ours: then it is not replaced
        return None
    return record if isinstance(record, dict) and record.get("token") == token else None


def result_of(record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """``BuildResult.to_json()`` again, from the record of a package that lies in ``folder``."""
    result = dict(record["result"])
    return {
        **result,
        "folder": str(folder),
        "record": str(folder / RECORD_NAME),
        "files": [{**file, "path": str(folder / file["path"])} for file in result["files"]],
        "modelfiles": {key: str(folder / name) for key, name in result["modelfiles"].items()},
    }


def outputs_of(result: Mapping[str, Any]) -> dict[str, str]:
    """File name to sha256 of a package's GGUF files, Modelfiles and record.

    The GGUF's digests are those of the bytes as they were written; they are not read again.
    """
    digests = {Path(file["path"]).name: str(file["sha256"]) for file in result["files"]}
    for path in map(Path, (*result["modelfiles"].values(), result["record"])):
        found = digest_of(path)
        if found is not None:
            digests[path.name] = found
    return digests


def is_whole(folder: Path, outputs: Mapping[str, str]) -> bool:
    """Whether every file is there with its digest."""
    return bool(outputs) and all(digest_of(folder / name) == digest for name, digest in outputs.items())


def is_registered(
    server: OllamaServer | None, target: Target, result: Mapping[str, Any], from_model: str | None
) -> bool:
    """Whether the names that a build registered still stand for its files.

    With ``from_model`` they must also lie on what that name stands for now.

    Raises:
        ServerUnreachableError: there are such names, and no server answers.
    """
    registered = set(result["registered"])
    if not registered:
        return True
    if server is None:
        raise ServerUnreachableError(
            f"{target.name} was registered, and no Ollama server answers to say whether it still is.",
            action="Start the server, or pass --no-register.",
        )
    base = None
    if from_model is not None:
        if not server.exists(from_model):
            return False
        base = server.show(from_model).sha256
    for file in result["files"]:
        for name in registered.intersection(target.names(file["quantization"])):
            if not server.exists(name):
                return False
            shown = server.show(name)
            if shown.own_sha256 != file["sha256"] or base not in (None, shown.sha256):
                return False
    return True


def refuse_foreign_names(server: OllamaServer, target: Target, own: Collection[str]) -> bool:
    """Whether any of the names exists already, with one of our ``own`` files (sha256).

    Raises:
        ModelExistsError: one exists with another file.
    """
    found = False
    for name in target.all_names():
        if not server.exists(name):
            continue
        if server.show(name).own_sha256 not in own:
            raise ModelExistsError(
                f'The Ollama server at {server.host} has a model "{name}" that this batch did not make.',
                action="Choose another name, or pass --overwrite to replace it.",
            )
        found = True
    return found


def clean_up(final: Path, token: str) -> None:
    """Remove what a killed build left on the disk; a package that it had moved aside is put back."""
    old = replaced_folder(final, token)
    if old.is_dir():
        if final.exists():
            shutil.rmtree(old)
        else:
            old.rename(final)
    if final.parent.is_dir():
        prefix = working_prefix(final, token)
        for path in [path for path in final.parent.iterdir() if path.name.startswith(prefix)]:
            shutil.rmtree(path)


def clean_up_server(server: OllamaServer, token: str) -> set[str]:
    """Remove what a killed build left on the server; the sha256 of those models' files."""
    digests = set()
    for name in leftovers(server, token):
        digest = server.show(name).own_sha256
        if digest is not None:
            digests.add(digest)
        server.delete(name)
    return digests
