"""Blobs, layers and the manifest that names them. Pure.

Source: Ollama 0.33.0, manifest/manifest.go (``Manifest``, ``WriteManifest``) and manifest/layer.go.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ggufpack.store import go_json

MAX_MANIFEST_BYTES = 4 << 20
_SCHEMA = 2
_INT64_END = 1 << 63
_MEDIA_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})\Z")


@dataclass(frozen=True, order=True)
class Blob:
    """One content: its SHA-256 in lower-case hex, and its size in bytes."""

    sha256: str
    size: int

    @classmethod
    def of(cls, content: bytes) -> Blob:
        """The blob of this content."""
        return cls(hashlib.sha256(content).hexdigest(), len(content))


@dataclass(frozen=True)
class Layer:
    """A blob in its part in a model. ``from_`` is the file that it was made from, where the server keeps
    that."""

    media_type: str
    blob: Blob
    from_: str = ""

    def to_json(self) -> dict[str, go_json.Value]:
        """The layer as it stands in a manifest."""
        plain: dict[str, go_json.Value] = {
            "mediaType": self.media_type,
            "digest": f"sha256:{self.blob.sha256}",
            "size": self.blob.size,
        }
        return {**plain, "from": self.from_} if self.from_ else plain


def encode_manifest(config: Layer, layers: tuple[Layer, ...]) -> bytes:
    """The manifest's bytes; their SHA-256 is the model's digest."""
    return go_json.encode(
        {
            "schemaVersion": _SCHEMA,
            "mediaType": _MEDIA_TYPE,
            "config": config.to_json(),
            "layers": [layer.to_json() for layer in layers],
        }
    )


def manifest_blobs(content: bytes) -> tuple[Blob, ...]:
    """Every blob that a manifest names, each once; servers of other versions write other keys beside.

    Raises:
        ValueError: it is no manifest; says why.
    """
    if len(content) > MAX_MANIFEST_BYTES:
        raise ValueError(f"it has {len(content):,} bytes")
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict) or value.get("schemaVersion") != _SCHEMA:
        raise ValueError(f"its schemaVersion is not {_SCHEMA}")
    layers = value.get("layers")
    if not isinstance(layers, list):
        raise ValueError("it has no layers")
    return tuple(dict.fromkeys(_blob(layer) for layer in [value.get("config"), *layers]))


def _blob(layer: Any) -> Blob:
    if not isinstance(layer, Mapping):
        raise ValueError("a layer is no object")
    return blob_of(layer.get("digest"), layer.get("size"))


def blob_of(digest: object, size: object) -> Blob:
    """A blob from ``sha256:HEX`` and a size as JSON gives them.

    Raises:
        ValueError: they are none.
    """
    found = _DIGEST.match(digest) if isinstance(digest, str) else None
    if found is None:
        raise ValueError(f"{digest!r:.90} is no digest")
    # an int64 of the server's; and no sum of some has more digits than Python prints
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < _INT64_END:
        raise ValueError(f"{size!r:.30} is no size")
    return Blob(found[1], size)
