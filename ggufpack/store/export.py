"""A store's models into one tar (``index`` says of which form), each byte read once and checked."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ggufpack.errors import StoreError, UsageError
from ggufpack.held import held_sibling
from ggufpack.registry.names import ModelName, parse
from ggufpack.resources import sync
from ggufpack.spec import EventHandler, Progress, Stage, ignore_event
from ggufpack.store.blobs import CHUNK, OnBytes, refusals
from ggufpack.store.folder import StoreFolder
from ggufpack.store.index import INDEX_NAME, Index, blob_member, encode_index, manifest_member
from ggufpack.store.manifest import Blob, manifest_blobs


@dataclass(frozen=True)
class Exported:
    """What is in an archive: names to digests, how many blobs, and the archive's own size."""

    models: dict[str, str]
    blobs: int
    bytes: int


def export_models(
    store: StoreFolder,
    names: Sequence[str],
    target: Path,
    *,
    overwrite: bool = False,
    on_event: EventHandler = ignore_event,
) -> Exported:
    """Write an archive of some models, or with no ``names`` of all.

    Raises:
        UsageError: ``target`` is there and ``overwrite`` is off, or a name is invalid.
        StoreError: a model is not there or damaged; no archive is written then.
    """
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists.", action="Pass --overwrite to replace it.", path=target)
    manifests = _manifests(store, names)
    blobs = {blob for name, content in manifests.items() for blob in _blobs_of(name, content)}
    for blob in blobs:
        if not store.blobs.has(blob):
            raise _damaged(store, blob)
    index = Index(tuple(sorted(blobs)), {name: Blob.of(content) for name, content in manifests.items()})
    done = 0

    def read(count: int) -> None:
        nonlocal done
        done += count
        on_event(Progress(Stage.REGISTRY, done, index.bytes, "bytes", target.name))

    with refusals(target), held_sibling(target) as (scratch, file):
        _write(file, store, index, manifests, read)
        file.flush()
        os.fsync(file.fileno())
        size = scratch.stat().st_size
        scratch.replace(target)
        sync(target.absolute().parent)
    return Exported(index.digests, len(index.blobs), size)


class _Hashed:
    """A file whose digest is known when it was read."""

    def __init__(self, file: BinaryIO, on_bytes: OnBytes) -> None:
        self._file, self._on_bytes = file, on_bytes
        self._digest = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        piece = self._file.read(size)
        self._digest.update(piece)
        self._on_bytes(len(piece))
        return piece

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def _write(
    file: BinaryIO, store: StoreFolder, index: Index, manifests: dict[ModelName, bytes], on_bytes: OnBytes
) -> None:
    # PAX only where a size or name does not fit the plain header: 8 GB, 255 characters
    with tarfile.TarFile(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, copybufsize=CHUNK) as tar:
        _add_bytes(tar, INDEX_NAME, encode_index(index))
        for blob in index.blobs:
            with store.blobs.path(blob).open("rb") as opened:
                source = _Hashed(opened, on_bytes)
                tar.addfile(_member(blob_member(blob), blob.size), source)
            if source.sha256 != blob.sha256:
                raise _damaged(store, blob)
        for name, _ in index.models:
            _add_bytes(tar, manifest_member(name), manifests[name])


def _add_bytes(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    tar.addfile(_member(name, len(content)), io.BytesIO(content))


def _member(name: str, size: int) -> tarfile.TarInfo:
    """A plain file without an owner or a time, so that the same models make the same archive."""
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o644
    return member


def _manifests(store: StoreFolder, names: Sequence[str]) -> dict[ModelName, bytes]:
    there = store.must_exist().names()
    keys = [parse(name).key for name in names] or list(there)
    if not keys:
        raise StoreError(f"There is no model in {store.root}", path=store.root)
    for name, key in zip(names, keys, strict=False):
        if key not in there:
            known = ", ".join(sorted(map(str, there.values()))) or "none"
            raise StoreError(
                f'There is no model "{name}" in {store.root}', action=f"It has: {known}.", path=store.root
            )
    return {there[key]: store.read(there[key]) for key in keys}


def _blobs_of(name: ModelName, content: bytes) -> tuple[Blob, ...]:
    try:
        return manifest_blobs(content)
    except ValueError as error:
        raise StoreError(f"The manifest of {name} is damaged: {error}") from error


def _damaged(store: StoreFolder, blob: Blob) -> StoreError:
    path = store.blobs.path(blob)
    return StoreError(
        f"{path} is missing, or has not the content of its name",
        action="`ggufpack store verify` says which models need it; add or pull them again.",
        path=path,
    )
