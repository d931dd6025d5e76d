"""The manifest that a registry serves for a model: which blobs the model is.

Source: Ollama 0.33.0, manifest/manifest.go (Manifest) and server/images.go (pullModelManifest).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from ggufpack.errors import RemoteManifestError, RemoteRegistryError
from ggufpack.registry.limits import Limits, limit
from ggufpack.registry.names import ModelName

MEDIA_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
MODEL_LAYER = "application/vnd.ollama.image.model"
# a text model's has some 2 kB; one with a layer for each tensor has a few hundred
MAX_MANIFEST_BYTES = 4 << 20
_LIMITS = Limits(silent=20, size=None, whole=20)
# hf.co leads to huggingface.co, and a host to its other name
_REDIRECTS = 3
DIGEST = re.compile(r"sha256:([0-9a-f]{64})\Z")


@dataclass(frozen=True)
class RemoteManifest:
    """One manifest.

    Attributes:
        digest: SHA-256 of its bytes, in hex.
        gguf: hex digest of the first layer that holds weights, ``None`` without one.
        layers: bytes of every blob by its digest (``sha256:HEX``), the configuration among them.
    """

    digest: str
    gguf: str | None
    layers: Mapping[str, int]


class NoManifestError(ValueError):
    """What was served may come from something in between (a sign-in page), and not from the registry."""


def parse_manifest(content: bytes) -> RemoteManifest:
    """A manifest from its bytes, that every reader of it reads the same.

    Raises:
        NoManifestError: it does not look like one.
        ValueError: it looks like one, and is wrong; the message says why.
    """
    if not content.lstrip().startswith(b"{"):
        raise NoManifestError("it is not a JSON object")
    try:
        document = json.loads(content, object_pairs_hook=_one_reading)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(document.get("layers"), list):
        raise NoManifestError("it is not a JSON object with layers")
    entries = [*document["layers"], document.get("config")]
    sizes: dict[str, int] = {}
    for digest, size in map(_sized, entries):
        if sizes.setdefault(digest, size) != size:
            raise ValueError(f"{digest:.19}… has two sizes")
    gguf = next((entry["digest"] for entry in entries if entry.get("mediaType") == MODEL_LAYER), None)
    return RemoteManifest(
        digest=hashlib.sha256(content).hexdigest(),
        gguf=None if gguf is None else gguf.removeprefix("sha256:"),
        layers=sizes,
    )


def fetch_manifest(name: ModelName, *, insecure: bool = False) -> RemoteManifest:
    """Ask the registry itself, not through the server and without a key.

    Args:
        name: host, namespace, model and tag.
        insecure: http, as the server's own ``insecure`` means it.

    Raises:
        RemoteManifestError: it serves a manifest that is wrong: no server should be told to pull it.
        RemoteRegistryError: it cannot be reached from here, does not answer without a key, or
            answers something else.
    """
    scheme = "http" if insecure else "https"
    url = f"{scheme}://{name.host}/v2/{name.namespace}/{name.model}/manifests/{name.tag}"
    try:
        with httpx.Client(headers={"Accept": MEDIA_TYPE}) as client:
            limit(client, lambda _path: _LIMITS, redirects=_REDIRECTS)
            with client.stream("GET", url, timeout=None) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise RemoteRegistryError(f"{url} answers with HTTP status {answer.status_code}")
                content = b""
                for chunk in answer.iter_bytes():
                    content += chunk
                    if len(content) > MAX_MANIFEST_BYTES:
                        raise ValueError(f"it has more than {MAX_MANIFEST_BYTES:,} bytes")
        return parse_manifest(content)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise RemoteRegistryError(f"{url} cannot be read ({str(error) or type(error).__name__})") from error
    except NoManifestError as error:
        raise RemoteRegistryError(f"{url} is no manifest of a model ({error})") from error
    except ValueError as error:
        raise RemoteManifestError(
            f"{url} is no manifest of a model ({error!s:.200})",
            action="Push the model again if it is yours. Do not pull it: it is damaged, or made to do harm.",
        ) from error


def _one_reading(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without keys that Go's decoder takes for one: it folds their case, and keeps the last."""
    found = dict(pairs)
    if len({key.casefold() for key in found}) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _sized(entry: Any) -> tuple[str, int]:
    """Digest and bytes of one blob."""
    match entry:
        case {"digest": str(digest), "size": int(size)} if DIGEST.match(digest) and _is_size(size):
            return digest, size
    raise ValueError(f"a layer has no digest or no size: {entry!r:.80}")


def _is_size(size: int) -> bool:
    return not isinstance(size, bool) and 0 <= size < 1 << 63
