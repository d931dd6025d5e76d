"""An archive into a store: every member expected by the index, every digest checked while writing.

What is in the store already, whole, is not read from the archive; a blob that an earlier import did
not finish goes on where it broke off. Manifests are written when everything else is there.
"""

from __future__ import annotations

import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

from ggufpack.errors import ArchiveError, ModelExistsError, RefusedArchiveError, StoreError
from ggufpack.registry.names import ModelName
from ggufpack.spec import EventHandler, Progress, Stage, ignore_event
from ggufpack.store.archive_file import COPY_AGAIN, ArchiveFile, Member
from ggufpack.store.blobs import OnBytes, WrongContentError, refusals
from ggufpack.store.folder import StoreFolder, StoreWriter
from ggufpack.store.index import (
    INDEX_NAME,
    MAX_INDEX_BYTES,
    Index,
    blob_member,
    decode_index,
    manifest_member,
)
from ggufpack.store.manifest import Blob, manifest_blobs


@dataclass(frozen=True)
class Imported:
    """What an import did: names to digests; blobs written, and blobs that were there; bytes written."""

    models: dict[str, str]
    written: int
    kept: int
    bytes: int


def import_archive(
    archive: Path,
    store: StoreFolder,
    *,
    overwrite: bool = False,
    on_event: EventHandler = ignore_event,
) -> Imported:
    """Put an archive's models into a store, which is made when there is none.

    Raises:
        ModelExistsError: a name is taken by another model, and ``overwrite`` is off.
        RefusedArchiveError: it is no archive of ``export_models``; the store is as it was.
        ArchiveError: it is cut short or damaged; blobs that came whole stay, and no model of it is there.
        StoreError: the disk refuses.
    """
    with refusals(archive), archive.open("rb", buffering=0) as opened, store.writing() as writer:
        file = ArchiveFile(archive, opened)
        with file.open_tar() as tar:
            index = _read_index(file, tar)
            there = _refuse_existing(store, index, overwrite=overwrite)
            _check_room(store, index)
            unpacking = _Unpacking(file, tar, writer, index, on_event)
            manifests = unpacking.run()
        store.write_manifests({there.get(name.key, name): content for name, content in manifests.items()})
        return Imported(index.digests, unpacking.written, unpacking.kept, unpacking.new_bytes)


@dataclass
class _Unpacking:
    """One import under way."""

    archive: ArchiveFile
    tar: tarfile.TarFile
    writer: StoreWriter
    index: Index
    on_event: EventHandler
    written: int = 0
    kept: int = 0
    new_bytes: int = 0

    def run(self) -> dict[ModelName, bytes]:
        """Write the blobs, and give the manifests back, checked."""
        new: list[Blob] = []
        try:
            for blob in self.index.blobs:
                if self._put(self.archive.expect(self.tar, blob_member(blob), blob.size), blob):
                    new.append(blob)
            return self._manifests()
        except RefusedArchiveError:
            for blob in new:
                self.writer.store.blobs.remove(blob)
            raise

    def _put(self, member: Member, blob: Blob) -> bool:
        partial = self.writer.store.blobs.partial_path(blob)
        resumed = partial.is_file()
        count = self._counter(partial.name)
        try:
            try:
                written = self.writer.put(blob, member, count, resume=True)
            except WrongContentError:
                if not resumed:
                    raise
                member.seek(0)  # what an earlier import left was damaged, which removed it
                written = self.writer.put(blob, member, count, resume=True)
        except WrongContentError as error:
            raise self._damaged(blob_member(blob)) from error
        self.written += written
        self.kept += not written
        self.new_bytes += blob.size if written else 0
        return written

    def _counter(self, item: str) -> OnBytes:
        done = sum(blob.size for blob in self.index.blobs[: self.written + self.kept])

        def count(size: int) -> None:
            nonlocal done
            done = min(done + size, self.index.bytes)  # what is read again is not more
            self.on_event(Progress(Stage.REGISTRY, done, self.index.bytes, "bytes", item))

        return count

    def _manifests(self) -> dict[ModelName, bytes]:
        found = {}
        named: set[Blob] = set()
        for name, blob in self.index.models:
            member = manifest_member(name)
            content = self.archive.expect(self.tar, member, blob.size).whole()
            if Blob.of(content) != blob:
                raise self._damaged(member)
            try:
                named.update(manifest_blobs(content))
            except ValueError as error:
                raise self.archive.refused(f"{member} is no manifest: {error}") from error
            found[name] = content
        if named != set(self.index.blobs):
            raise self.archive.refused("its manifests do not name the blobs that it holds")
        self.archive.expect_end(self.tar)
        return found

    def _damaged(self, member: str) -> ArchiveError:
        path = self.archive.path
        return ArchiveError(
            f"{path} is damaged: {member} in it has another content", action=COPY_AGAIN, path=path
        )


def _read_index(file: ArchiveFile, tar: tarfile.TarFile) -> Index:
    member = file.expect(tar, INDEX_NAME, None)
    if member.size > MAX_INDEX_BYTES:
        raise file.refused(f"its index has {member.size:,} bytes")
    try:
        return decode_index(member.whole())
    except ValueError as error:
        raise file.refused(f"its index is damaged: {error}") from error


def _refuse_existing(store: StoreFolder, index: Index, *, overwrite: bool) -> dict[str, ModelName]:
    """The names of models that are there, by key."""
    there = store.names()
    for name, blob in index.models:
        taken = there.get(name.key)
        if taken is not None and not overwrite and Blob.of(store.read(taken)) != blob:
            raise ModelExistsError(
                f'The store {store.root} has another model "{taken}"',
                action="Pass --overwrite to replace it.",
            )
    return there


def _check_room(store: StoreFolder, index: Index) -> None:
    existing = next(folder for folder in (store.root, *store.root.absolute().parents) if folder.exists())
    partials = map(store.blobs.partial_path, index.blobs)
    begun = sum(path.stat().st_size for path in partials if path.is_file())
    needed = sum(blob.size for blob in index.blobs if not store.blobs.has(blob)) - begun
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise StoreError(
            f"There is no room in {store.root}: {needed:,} bytes are needed, and {free:,} are free",
            action="Free space there, or choose a folder on a larger disk.",
            path=store.root,
        )
