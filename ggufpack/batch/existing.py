"""Packages that a batch finds in place: whether they are its own, whole, and registered as they were."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ggufpack import attempt, package_folder
from ggufpack.batch import storage, transfer
from ggufpack.batch.urls import shown, url_of
from ggufpack.errors import ModelExistsError, ServerUnreachableError
from ggufpack.package_folder import RECORD_NAME
from ggufpack.package_folder import check_free as check_free_folder
from ggufpack.packages import sha256_of
from ggufpack.registry import OllamaServer, leftovers
from ggufpack.target import Target

_MAX_RECORD_BYTES = 256 << 20


def digest_of(path: Path) -> str | None:
    """sha256 in hex, of what lies there now; ``None`` when there is no such file."""
    url = url_of(path)
    if url is not None:
        return storage.digest(url, hashlib.sha256())
    try:
        return sha256_of(path)
    except FileNotFoundError:
        return None


def read_own_record(folder: Path, token: str) -> Mapping[str, Any] | None:
    """The record of a package that was made with this token; ``None`` for any other folder."""
    try:
        record = json.loads(_read(folder / RECORD_NAME))
    except (OSError, ValueError):  # not there, or none of ours: then it is not replaced
        return None
    return record if isinstance(record, dict) and record.get("token") == token else None


def _read(path: Path) -> bytes:
    url = url_of(path)
    size = path.stat().st_size if url is None else storage.size_of(url)
    if size > _MAX_RECORD_BYTES:
        return b""
    return path.read_bytes() if url is None else storage.read(url, 0, size) if size else b""


def result_of(record: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """``BuildResult.to_json()`` again, from the record of a package that lies in ``folder``."""
    result = dict(record["result"])
    return {
        **result,
        "folder": shown(folder),
        "record": shown(folder / RECORD_NAME),
        "files": [{**file, "path": shown(folder / file["path"])} for file in result["files"]],
        "modelfiles": {key: shown(folder / name) for key, name in result["modelfiles"].items()},
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
    What was built when no server answered is not finished once one does.

    Raises:
        ServerUnreachableError: there are such names, and no server answers.
    """
    registered = set(result["registered"])
    if not registered:
        return server is None
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


def check_free(final: Path, *, overwrite: bool) -> None:
    """Refuse a place that holds something else.

    Raises:
        UsageError: there is a package already and ``overwrite`` is off, or it is no package.
    """
    url = url_of(final)
    if url is None:
        check_free_folder(final, overwrite=overwrite)
    else:
        transfer.check_free(url, overwrite=overwrite)


def clean_up(final: Path, token: str) -> None:
    """Remove what a killed build left there; a package that it had moved aside is put back."""
    url = url_of(final)
    if url is not None:
        transfer.clean_up(url, token)
        return
    package_folder.clean_up(final, token)


def published(final: Path, token: str) -> frozenset[str]:
    """The sha256 of files that a killed or failed build gave names to, before its package was in place.

    At a URL there are none: a package is put there before its model gets its names.
    """
    return attempt.published(final, token) if url_of(final) is None else frozenset()


def settle(final: Path, token: str) -> None:
    """A killed build's package is in place, and is taken as it is."""
    if url_of(final) is None:
        attempt.settle(final, token)


def clean_up_server(server: OllamaServer, token: str) -> set[str]:
    """Remove what a killed build left on the server; the sha256 of those models' files."""
    digests = set()
    for name in leftovers(server, token):
        digest = server.show(name).own_sha256
        if digest is not None:
            digests.add(digest)
        server.delete(name)
    return digests
