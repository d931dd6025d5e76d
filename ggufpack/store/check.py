"""Whether a store is whole: every manifest's blobs are there with their digest. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ggufpack.spec import EventHandler, Progress, Stage, ignore_event
from ggufpack.store.folder import StoreFolder, read_manifest
from ggufpack.store.manifest import Blob, manifest_blobs


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        models: name to digest, of models that are whole.
        damaged: name (or path) of a model to what is wrong with it.
        orphans: files among the blobs that no manifest names; a server prunes them at its start.
        unfinished: files among the blobs that are no blobs: what broke off.
        bytes: read.
    """

    models: Mapping[str, str]
    damaged: Mapping[str, tuple[str, ...]]
    orphans: tuple[str, ...]
    unfinished: tuple[str, ...]
    bytes: int

    def to_json(self) -> dict[str, object]:
        """The object that ``ggufpack store verify --json`` prints."""
        return {
            "models": dict(self.models),
            "damaged": {name: list(problems) for name, problems in self.damaged.items()},
            "orphans": list(self.orphans),
            "unfinished": list(self.unfinished),
            "bytes": self.bytes,
        }


def check_store(store: StoreFolder, on_event: EventHandler = ignore_event) -> Checked:
    """Read everything in a store once.

    Raises:
        StoreError: there is no store, or it cannot be read.
    """
    store.must_exist()
    wanted: dict[str, tuple[Blob, ...]] = {}
    digests: dict[str, str] = {}
    damaged: dict[str, tuple[str, ...]] = {}
    for name, path in store.manifests():
        label = str(name or path.relative_to(store.root))
        content = read_manifest(path)
        digests[label] = Blob.of(content).sha256
        if name is None:
            damaged[label] = ("its path is no name of a model",)
        try:
            wanted[label] = manifest_blobs(content)
        except ValueError as error:  # JSON's errors are among them
            damaged[label] = (f"its manifest is damaged: {error}",)
    problems = _problems(store, {blob for blobs in wanted.values() for blob in blobs}, on_event)
    for label, blobs in wanted.items():
        found = tuple(problems.by_blob[blob] for blob in blobs if blob in problems.by_blob)
        if found:
            damaged[label] = (*damaged.get(label, ()), *found)
    named = {blob.sha256 for blobs in wanted.values() for blob in blobs}
    files = list(store.blobs.files())
    return Checked(
        {label: digests[label] for label in wanted if label not in damaged},
        damaged,
        tuple(path.name for digest, path in files if digest is not None and digest not in named),
        tuple(path.name for digest, path in files if digest is None),
        problems.read,
    )


@dataclass(frozen=True)
class _Problems:
    by_blob: Mapping[Blob, str]
    read: int


def _problems(store: StoreFolder, blobs: set[Blob], on_event: EventHandler) -> _Problems:
    total = sum(blob.size for blob in blobs)
    done = 0
    found = {}
    for blob in sorted(blobs):
        label = f"sha256-{blob.sha256}"

        def read(count: int, item: str = label) -> None:
            nonlocal done
            done += count
            on_event(Progress(Stage.REGISTRY, done, total, "bytes", item))

        path = store.blobs.path(blob)
        if not path.is_file():
            found[blob] = f"{label} is missing"
        elif (size := path.stat().st_size) != blob.size:
            found[blob] = f"{label} has {size:,} bytes, not {blob.size:,}"
        elif not store.blobs.is_whole(blob, read):
            found[blob] = f"{label} has another content"
    return _Problems(found, done)
