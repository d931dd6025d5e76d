"""What an archive of a store is, and its index. Pure.

A plain tar, the same bytes for the same models whenever and wherever it is made:

    ggufpack-store.json                     the index: every member behind it, with digest and size
    blobs/sha256-HEX                        in the order of their digests
    manifests/HOST/NAMESPACE/MODEL/TAG      in the order of their paths

So ``tar -xf ARCHIVE -C STORE`` works too, unchecked. The members of an archive must be those of its
index, in this order, as plain files of these sizes: whatever else a tar can hold (links, devices,
folders, a name twice, a path that leaves the store) is refused because it is not expected.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ggufpack.registry.names import ModelName
from ggufpack.store.folder import name_of_path, path_of_name
from ggufpack.store.manifest import MAX_MANIFEST_BYTES, Blob, blob_of

INDEX_NAME = "ggufpack-store.json"
MAX_INDEX_BYTES = 16 << 20
_FORMAT = 1


@dataclass(frozen=True)
class Index:
    """The contents of an archive: ``blobs`` in their order, and each model's manifest."""

    blobs: tuple[Blob, ...]
    manifests: Mapping[ModelName, Blob]

    @property
    def models(self) -> tuple[tuple[ModelName, Blob], ...]:
        """The manifests in their order."""
        return tuple(sorted(self.manifests.items(), key=lambda item: path_of_name(item[0])))

    @property
    def bytes(self) -> int:
        """Of all members behind the index."""
        return sum(blob.size for blob in (*self.blobs, *self.manifests.values()))

    @property
    def digests(self) -> dict[str, str]:
        """Name of each model to its digest."""
        return {str(name): blob.sha256 for name, blob in self.models}


def blob_member(blob: Blob) -> str:
    """A blob's name in an archive."""
    return f"blobs/sha256-{blob.sha256}"


def manifest_member(name: ModelName) -> str:
    """A manifest's name in an archive."""
    return f"manifests/{path_of_name(name)}"


def encode_index(index: Index) -> bytes:
    """The index as the archive's first member."""
    value = {
        "format": _FORMAT,
        "models": [{"path": path_of_name(name), **_json(blob)} for name, blob in index.models],
        "blobs": [_json(blob) for blob in sorted(index.blobs)],
    }
    return (json.dumps(value, indent=1) + "\n").encode()


def decode_index(content: bytes) -> Index:
    """The index back, with everything in it checked.

    Raises:
        ValueError: it is none, or of another version; says why.
    """
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict) or value.get("format") != _FORMAT:
        raise ValueError(f"its format is not {_FORMAT}; this ggufpack reads no other")
    blobs = tuple(_blob(each) for each in _list(value, "blobs"))
    manifests = dict(_manifest(each) for each in _list(value, "models"))
    index = Index(blobs, manifests)
    # strict order also says: nothing twice
    if encode_index(index) != content:
        raise ValueError("it is not written as this program writes it")
    if len({blob.sha256 for blob in blobs}) != len(blobs):
        raise ValueError("a digest is in it with two sizes")
    return index


def _json(blob: Blob) -> dict[str, Any]:
    return {"digest": f"sha256:{blob.sha256}", "size": blob.size}


def _list(value: Mapping[str, Any], key: str) -> list[Any]:
    found = value.get(key)
    if not isinstance(found, list):
        raise ValueError(f"{key} is no list")
    return found


def _blob(value: object) -> Blob:
    if not isinstance(value, Mapping):
        raise ValueError("a blob is no object")
    return blob_of(value.get("digest"), value.get("size"))


def _manifest(value: object) -> tuple[ModelName, Blob]:
    blob = _blob(value)
    path = value.get("path") if isinstance(value, Mapping) else None
    name = name_of_path(path) if isinstance(path, str) else None
    if name is None:
        raise ValueError(f"{path!r:.200} is no model's path")
    if blob.size > MAX_MANIFEST_BYTES:
        raise ValueError(f"the manifest of {name} has {blob.size:,} bytes")
    return name, blob
