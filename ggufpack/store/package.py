"""Packages into a store: what a server's ``create`` would make of each of their files."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufpack.errors import ModelfileError, StoreError
from ggufpack.gguf_header import GgufFileError, read_gguf_header
from ggufpack.modelfile.parse import parse
from ggufpack.package_folder import RECORD_NAME
from ggufpack.registry.names import latest, tagged
from ggufpack.report.reading import Record, read_record, typed
from ggufpack.spec import EventHandler, Note, Progress, Stage, ignore_event
from ggufpack.store.blobs import WrongContentError, refusals
from ggufpack.store.folder import StoreFolder, StoreWriter
from ggufpack.store.layers import StoreModel, store_model
from ggufpack.store.manifest import Blob


@dataclass(frozen=True)
class Packaged:
    """One model of a package, as it goes into a store.

    Attributes:
        gguf: the file.
        blob: its digest and size, as they were when it was verified.
        request: template, system, parameters … (``Modelfile.to_create_request``).
        names: with their tags.
        projector: the vision tower's file with its blob; ``None`` for none.
    """

    gguf: Path
    blob: Blob
    request: Mapping[str, Any]
    names: tuple[str, ...]
    projector: tuple[Path, Blob] | None = None

    @property
    def weights(self) -> tuple[tuple[Path, Blob], ...]:
        """All its GGUFs."""
        return ((self.gguf, self.blob), *(() if self.projector is None else (self.projector,)))


@dataclass(frozen=True)
class Stored:
    """A model in a store. ``digest`` is its manifest's SHA-256, ``written`` the new bytes of its GGUF."""

    names: tuple[str, ...]
    digest: str
    written: int


def read_package(folder: Path, name: str | None = None) -> tuple[Packaged, ...]:
    """The models of a package folder.

    Args:
        folder: as ``build`` made it; it may have been moved.
        name: instead of the package's own; without a tag.

    Raises:
        UsageError: it is no package folder, or a name that cannot be.
        StoreError: its verification failed, or a file is missing.
        ModelfileError: its Modelfile is none.
    """
    record = typed(read_record(folder), folder / RECORD_NAME)
    if record.result.status == "failed":
        raise StoreError(
            f"The package {folder} failed its verification",
            action="Its report.html says why; build it again.",
            path=folder,
        )
    files, tower = record.result.files, record.result.projector
    projector = None if tower is None else (_inside(folder, tower.path), Blob(tower.sha256, tower.size))
    return tuple(
        Packaged(
            _inside(folder, file.path),
            Blob(file.sha256, file.size),
            _request(folder, record, file.quantization),
            _names(name or record.result.name, file.quantization, first=file is files[0]),
            projector,
        )
        for file in files
    )


@dataclass(frozen=True)
class StagedInStore:
    """Models whose blobs are in a store, for as long as ``stage_in_store``'s block lasts."""

    writer: StoreWriter
    models: tuple[tuple[Packaged, StoreModel, int], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Those that they will have."""
        return tuple(name for packaged, _, _ in self.models for name in packaged.names)

    def publish(self, *, overwrite: bool = False, own: Collection[str] = ()) -> tuple[Stored, ...]:
        """Write the manifests. Models with one of our ``own`` files (sha256) are replaced in any case.

        Raises:
            ModelExistsError: a name is taken by another model, and ``overwrite`` is off.
        """
        return tuple(
            Stored(
                self.writer.publish(packaged.names, model.manifest, overwrite=overwrite, own=own),
                model.digest,
                written,
            )
            for packaged, model, written in self.models
        )


@contextmanager
def stage_in_store(
    store: StoreFolder, packages: Sequence[Packaged], on_event: EventHandler = ignore_event
) -> Iterator[StagedInStore]:
    """Copy the blobs of packages into a store; those that were not published go when the block ends.

    Raises:
        StoreError: a file is no longer the one that was verified, or the disk refuses.
    """
    with _staged(store, [(packaged, _prepare(packaged)) for packaged in packages], on_event) as staged:
        yield staged


def add_packages(
    store: StoreFolder,
    packages: Sequence[Packaged],
    *,
    overwrite: bool = False,
    on_event: EventHandler = ignore_event,
) -> tuple[Stored, ...]:
    """Put packages into a store; taken names are refused before anything is copied.

    Raises:
        ModelExistsError: a name is taken by another model, and ``overwrite`` is off.
        StoreError: as ``stage_in_store``.
    """
    models = [(packaged, _prepare(packaged)) for packaged in packages]
    if not overwrite:
        for packaged, model in models:
            store.refuse_existing(packaged.names, model.manifest)
    with _staged(store, models, on_event) as staged:
        return staged.publish(overwrite=overwrite)


@contextmanager
def _staged(
    store: StoreFolder, models: Sequence[tuple[Packaged, StoreModel]], on_event: EventHandler
) -> Iterator[StagedInStore]:
    with store.writing() as writer:
        copied = [
            (packaged, model, _write_blobs(writer, packaged, model, on_event)) for packaged, model in models
        ]
        yield StagedInStore(writer, tuple(copied))


def _prepare(packaged: Packaged) -> StoreModel:
    """The model; reads the GGUF's header.

    Raises:
        StoreError: it is no whole GGUF.
    """
    try:
        with refusals(packaged.gguf):
            header = read_gguf_header(packaged.gguf)
    except GgufFileError as error:
        raise _changed(packaged.gguf, error.problem) from error
    if header.size != packaged.blob.size:
        raise _changed(packaged.gguf, f"it has {header.size:,} bytes, not {packaged.blob.size:,}")
    tower = None if packaged.projector is None else (packaged.projector[0].name, packaged.projector[1])
    return store_model(header, packaged.blob, packaged.request, tower)


def _write_blobs(writer: StoreWriter, packaged: Packaged, model: StoreModel, on_event: EventHandler) -> int:
    """Every blob of a model; its manifest is left to ``StoreWriter.publish``.

    Returns:
        How many bytes of its GGUFs were written: none when the store has them.
    """
    written = sum(_write_weights(writer, path, blob, on_event) for path, blob in packaged.weights)
    if model.renderer:
        on_event(
            Note(
                f'Ollama makes the prompts of this model itself (renderer "{model.renderer}"), whatever its'
                " TEMPLATE says: verify it on a server"
            )
        )
    for blob, content in model.texts:
        writer.put_text(blob, content)
    return written


def _write_weights(writer: StoreWriter, path: Path, blob: Blob, on_event: EventHandler) -> int:
    done = 0

    def copied(count: int) -> None:
        nonlocal done
        done += count
        on_event(Progress(Stage.REGISTRY, done, blob.size, "bytes", path.name))

    try:
        with refusals(path), path.open("rb") as file:
            written = writer.put(blob, file, copied)
    except WrongContentError as error:
        raise _changed(path, "its SHA-256 is another one") from error
    if not written:
        on_event(Note(f"The store has {path.name} already"))
    return blob.size if written else 0


def _names(name: str, quantization: str, *, first: bool) -> tuple[str, ...]:
    return (tagged(name, quantization), *([latest(name)] if first else []))


def _request(folder: Path, record: Record, quantization: str) -> dict[str, Any]:
    path = _inside(folder, record.result.modelfiles.get(quantization, "Modelfile"))
    with refusals(path):
        content = path.read_bytes()
    recorded = record.result.modelfile_sha256.get(quantization)
    if recorded is not None and hashlib.sha256(content).hexdigest() != recorded:
        raise _changed(path, "its SHA-256 is another one")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ModelfileError(f"{path} is not UTF-8 text", path=path) from error
    return parse(text).to_create_request()


def _inside(folder: Path, name: str) -> Path:
    """A file that a record names, which must lie beside it."""
    path = folder / name
    if Path(name).name != name or not path.is_file():
        raise StoreError(
            f"The package {folder} has no file {name!r:.100}, which its {RECORD_NAME} names",
            action="Copy the package again, completely, or build it again.",
            path=path,
        )
    return path


def _changed(path: Path, problem: str) -> StoreError:
    return StoreError(
        f"{path} is not the file that was built: {problem}",
        action="Copy the package again, completely, or build it again.",
        path=path,
    )
