"""An Ollama manifest, as a registry serves it and as a store holds it: refused with ValueError, or digests
and sizes."""

from __future__ import annotations

from collections.abc import Iterator

from ggufpack.registry.manifest import DIGEST, parse_manifest
from ggufpack.store.manifest import Blob, Layer, encode_manifest, manifest_blobs

IS_JSON = True
WORDS = (b'"schemaVersion"', b'"layers"', b'"config"', b'"digest"', b'"size"', b'"mediaType"', b"sha256:")


def one_input(data: bytes) -> None:
    try:
        remote = parse_manifest(data)
    except (ValueError, RecursionError):  # fetch_manifest turns both into a sentence
        pass
    else:
        assert all(DIGEST.match(digest) and 0 <= size < 2**63 for digest, size in remote.layers.items())
        assert remote.gguf is None or f"sha256:{remote.gguf}" in remote.layers
    try:
        blobs = manifest_blobs(data)
    except ValueError as error:
        assert (
            type(error) in (ValueError, UnicodeDecodeError) or error.__class__.__name__ == "JSONDecodeError"
        )
    else:
        assert len(set(blobs)) == len(blobs)
        assert all(len(bytes.fromhex(blob.sha256)) == 32 and 0 <= blob.size < 2**63 for blob in blobs)


def seeds() -> Iterator[bytes]:
    config = Layer("application/vnd.docker.container.image.v1+json", Blob.of(b"{}"))
    model = Layer("application/vnd.ollama.image.model", Blob.of(b"GGUF"), "/tmp/m.gguf")  # noqa: S108
    template = Layer("application/vnd.ollama.image.template", Blob.of(b"{{ .Prompt }}"))
    yield encode_manifest(config, ())
    yield encode_manifest(config, (model, template))
