"""A store as a folder: the names in it, and models put there with their manifest last."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ggufpack.errors import InvalidModelNameError, ModelExistsError, StoreError
from ggufpack.held import held_folder
from ggufpack.packages import exclusive
from ggufpack.registry.names import ModelName, parse
from ggufpack.resources import sync, write_new
from ggufpack.store.blobs import BlobStore, OnBytes, Source, refusals
from ggufpack.store.manifest import MAX_MANIFEST_BYTES, Blob, manifest_blobs

_PARTS = 4


def default_store(environment: Mapping[str, str] = os.environ) -> Path:
    """Where a server of this user has its models (envconfig/config.go: ``Models``, ``Var``)."""
    named = environment.get("OLLAMA_MODELS", "").strip().strip("\"'")
    return Path(named) if named else Path.home() / ".ollama" / "models"


class StoreFolder:
    """One store. Making the object does not touch the disk; methods raise ``StoreError`` for what it
    refuses. ``blobs`` are its contents."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = BlobStore(root / "blobs")
        self._manifests = root / "manifests"

    def must_exist(self) -> StoreFolder:
        """Itself.

        Raises:
            StoreError: there is no store.
        """
        if not self._manifests.is_dir():
            raise StoreError(
                f"{self.root} is no store of models: it has no folder manifests",
                action="Name the folder with --store; it is the server's OLLAMA_MODELS.",
                path=self.root,
            )
        return self

    def manifests(self) -> Iterator[tuple[ModelName | None, Path]]:
        """Every manifest, in the order of their paths; without a name where its path gives none."""
        with refusals(self._manifests):
            for path in sorted(self._manifests.glob("*/*/*/*")):
                if not path.is_dir():
                    yield name_of_path(path.relative_to(self._manifests).as_posix()), path

    def names(self) -> dict[str, ModelName]:
        """The models that are there, by ``ModelName.key``."""
        return {name.key: name for name, _ in self.manifests() if name is not None}

    def path(self, name: ModelName) -> Path:
        """Where its manifest is, or would be (types/model/name.go: Filepath)."""
        return self._manifests / path_of_name(name)

    def read(self, name: ModelName) -> bytes:
        """Its manifest.

        Raises:
            StoreError: there is none.
        """
        path = self.path(name)
        if not path.is_file():
            raise StoreError(f'There is no model "{name}" in {self.root}', path=path)
        return read_manifest(path)

    def refuse_existing(
        self, names: Sequence[str], manifest: bytes | None = None, own: Collection[str] = ()
    ) -> None:
        """Ask before any work is done.

        Args:
            names: with their tags.
            manifest: a name that stands for it already is no reason to refuse.
            own: sha256 of blobs; nor is one whose manifest names one of them.

        Raises:
            InvalidModelNameError: a name is invalid.
            ModelExistsError: a name is taken by another model.
        """
        there = self.names()
        for name in map(parse, names):
            taken = there.get(name.key)
            if taken is not None and not self._is_own(self.read(taken), manifest, own):
                raise ModelExistsError(
                    f'The store {self.root} has a model "{name}" already',
                    action="Give another --name, or --overwrite to replace it.",
                )

    @staticmethod
    def _is_own(content: bytes, manifest: bytes | None, own: Collection[str]) -> bool:
        if not own or content == manifest:
            return content == manifest
        try:
            return any(blob.sha256 in own for blob in manifest_blobs(content))
        except ValueError:  # damaged: it may be anybody's
            return False

    @contextmanager
    def writing(self) -> Iterator[StoreWriter]:
        """The store's lock, held against other programs of this one and user; a server does not know it.

        Blobs that were written in the block, and that no manifest names at its end, are removed.
        """
        with exclusive(self.root.resolve()):
            writer = StoreWriter(self)
            try:
                yield writer
            finally:
                writer.remove_unused()

    def write_manifests(self, manifests: Mapping[ModelName, bytes]) -> None:
        """Write all of them beside their places, then put each there: all of them, or none."""
        with refusals(self._manifests):
            self._manifests.mkdir(parents=True, exist_ok=True)
            # not deep enough for the server to take it for a manifest
            with held_folder(".ggufpack-", self._manifests) as folder:
                there = self.names()
                moves = []
                for number, (name, content) in enumerate(manifests.items()):
                    scratch = folder / str(number)
                    write_new(scratch, content)
                    scratch.chmod(0o644)
                    moves.append((scratch, self.path(there.get(name.key, name))))
                with _undone_on_error(folder, [final for _, final in moves]):
                    for scratch, final in moves:
                        final.parent.mkdir(parents=True, exist_ok=True)
                        scratch.replace(final)
                        sync(final.parent)


class StoreWriter:
    """Puts blobs and models into a store, for as long as ``StoreFolder.writing``'s block lasts."""

    def __init__(self, store: StoreFolder) -> None:
        self.store = store
        self._new: set[Blob] = set()

    def put(self, blob: Blob, source: Source, on_bytes: OnBytes, *, resume: bool = False) -> bool:
        """As ``BlobStore.put``. With ``resume`` it stays, whatever becomes of the model."""
        written = self.store.blobs.put(blob, source, on_bytes, resume=resume)
        if written and not resume:
            self._new.add(blob)
        return written

    def put_text(self, blob: Blob, content: bytes) -> None:
        """A small blob from memory."""
        self.put(blob, io.BytesIO(content), lambda _count: None)

    def publish(
        self, names: Sequence[str], manifest: bytes, *, overwrite: bool, own: Collection[str] = ()
    ) -> tuple[str, ...]:
        """Give a model its names, now that its blobs are there; ``own`` as for ``refuse_existing``.

        Returns:
            The names, as they are in the store.

        Raises:
            ModelExistsError: a name is taken by another model and ``overwrite`` is off.
        """
        if not overwrite:
            self.store.refuse_existing(names, manifest, own)
        distinct = {parsed.key: parsed for parsed in map(parse, names)}.values()
        self.store.write_manifests(dict.fromkeys(distinct, manifest))
        self._new -= set(manifest_blobs(manifest))
        return tuple(map(str, distinct))

    def remove_unused(self) -> None:
        """Remove what was written for a model that did not come to be."""
        for blob in self._new:
            self.store.blobs.remove(blob)


@contextmanager
def _undone_on_error(scratch: Path, paths: Sequence[Path]) -> Iterator[None]:
    """Files that are replaced in the block are as before when it ends early; copies are in ``scratch``."""
    before = []
    for number, path in enumerate(paths):
        kept = scratch / f"{number}.before"
        if path.exists():
            shutil.copy2(path, kept)
            sync(kept)
        before.append((path, kept))
    try:
        yield
    except BaseException:
        for path, kept in before:
            if kept.exists():
                kept.replace(path)
            else:
                path.unlink(missing_ok=True)
        raise


def path_of_name(name: ModelName) -> str:
    """``HOST/NAMESPACE/MODEL/TAG``."""
    return f"{name.host}/{name.namespace}/{name.model}/{name.tag}"


def name_of_path(path: str) -> ModelName | None:
    """The name whose manifest has this path below ``manifests``; ``None`` for none."""
    parts = path.split("/")
    if len(parts) != _PARTS:
        return None
    try:
        return parse("/".join(parts[:-1]) + f":{parts[-1]}")
    except InvalidModelNameError:
        return None


def read_manifest(path: Path) -> bytes:
    """A manifest's bytes, at most one more than a manifest may have."""
    with refusals(path), path.open("rb") as file:
        return file.read(MAX_MANIFEST_BYTES + 1)
