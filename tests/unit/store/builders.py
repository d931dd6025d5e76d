"""Small stores: the weights are any bytes, for what reads no GGUF."""

from __future__ import annotations

import io
import random
from collections.abc import Iterable
from pathlib import Path

from ggufpack.store.folder import StoreFolder
from ggufpack.store.manifest import Blob, Layer, encode_manifest

MODEL = "application/vnd.ollama.image.model"
WEIGHTS = random.Random(8).randbytes(3_000_001)  # several chunks, and no whole number of them
TEXTS = (b"a template", b"parameters", b"a config")


def small_store(root: Path, names: Iterable[str] = ("small:q8_0", "small:latest")) -> StoreFolder:
    """A store of one model under these names."""
    store = StoreFolder(root)
    put_model(store, [*names])
    return store


def put_model(store: StoreFolder, names: list[str], contents: tuple[bytes, ...] = (WEIGHTS, *TEXTS)) -> bytes:
    """A model of these contents; gives its manifest."""
    blobs = [Blob.of(content) for content in contents]
    layers = tuple(Layer(MODEL, blob) for blob in blobs)
    manifest = encode_manifest(layers[-1], layers[:-1])
    with store.writing() as writer:
        for blob, content in zip(blobs, contents, strict=True):
            writer.put(blob, io.BytesIO(content), lambda _count: None)
        writer.publish(names, manifest, overwrite=True)
    return manifest


def contents_of(root: Path) -> dict[str, bytes]:
    """Every file below a folder; empty where there is none."""
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }
