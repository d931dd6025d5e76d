"""Which blobs a server's ``create`` makes of a GGUF and a request, to the byte. Pure.

Source: Ollama 0.33.0, server/create.go (``createModel``, ``setTemplate`` … ``setMessages``,
``createConfigLayer``), types/model/config.go (``ConfigV2``), format/format.go (``HumanNumber``) and
fs/ggml/type.go (``FileType``). Where the server looks into the GGUF it does so here through its header.

The server passes the GGUF through ``llama-quantize COPY`` first. Files of this program come out of
that as they went in (tests/integration/test_store.py asks a server), so nothing is done here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ggufpack.gguf_header import GgufHeader
from ggufpack.quantize.types import FILE_TYPES
from ggufpack.store import go_json
from ggufpack.store.manifest import Blob, Layer, encode_manifest

_LAYER = "application/vnd.ollama.image."
_CONFIG = "application/vnd.docker.container.image.v1+json"
_FILE_TYPES = {each.number: each.name for each in FILE_TYPES.values() if each.number}
# createModel: the prompts of these are Ollama's own, whatever TEMPLATE says
RENDERED_BY_SERVER: Mapping[str, str] = {
    "gemma4": "gemma4",
    "laguna": "laguna",
    "nemotron_h": "nemotron-3-nano",
    "nemotron_h_moe": "nemotron-3-nano",
    "nemotron_h_omni": "nemotron-3-nano",
}
# isEmbeddedCompatibilityTensor: a model with these is not copied, and its layer keeps the file's name
_KEPT_AS_SENT = ("a.", "mm.", "mtp.", "s.", "v.")


@dataclass(frozen=True)
class StoreModel:
    """One model, ready to be written.

    Attributes:
        weights: the GGUF's blob.
        texts: every other blob with its content, the config last.
        manifest: its bytes.
        renderer: the prompt renderer of Ollama's that replaces TEMPLATE; empty for none.
    """

    weights: Blob
    texts: tuple[tuple[Blob, bytes], ...]
    manifest: bytes
    renderer: str

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, which ``ollama list`` shows the beginning of."""
        return Blob.of(self.manifest).sha256


def store_model(
    header: GgufHeader,
    weights: Blob,
    request: Mapping[str, Any],
    projector: tuple[str, Blob] | None = None,
) -> StoreModel:
    """The model of a GGUF and a create request, as the server would store it.

    Args:
        header: of the GGUF.
        weights: its digest and size.
        request: template, system, parameters, license, messages, renderer, parser, requires
            (``Modelfile.to_create_request``).
        projector: the vision tower's file name and blob. The server sorts the files by name, so that it
            comes behind the model (``NAME-mmproj-…`` after ``NAME-Q…``), and keeps it as it was sent.
    """
    copied = not any(tensor.name.startswith(_KEPT_AS_SENT) for tensor in header.tensors)
    layers = [Layer(f"{_LAYER}model", weights, "" if copied else header.path.name)]
    if projector is not None:
        name, blob = projector
        layers.append(Layer(f"{_LAYER}projector", blob, name))
    texts: list[tuple[Blob, bytes]] = []

    def add(media_type: str, content: bytes) -> Layer:
        blob = Blob.of(content)
        texts.append((blob, content))
        return Layer(media_type, blob)

    for kind in ("template", "system"):
        if text := request.get(kind):
            layers.append(add(f"{_LAYER}{kind}", text.encode()))
    layers += [add(f"{_LAYER}license", text.encode()) for text in request.get("license") or ()]
    # OllamaServer.create sends stop always: without it the server adds some of its own
    parameters = {"stop": [], **(request.get("parameters") or {})}
    layers.append(add(f"{_LAYER}params", go_json.encode(go_json.decoded(parameters))))
    if messages := request.get("messages"):
        pairs = [{"role": each["role"].lower(), "content": each["content"]} for each in messages]
        layers.append(add(f"{_LAYER}messages", go_json.encode(pairs)))
    config = _config(header, request)
    config_layer = add(_CONFIG, go_json.encode(config))
    manifest = encode_manifest(config_layer, tuple(layers))
    return StoreModel(weights, tuple(texts), manifest, str(config.get("renderer", "")))


def human_number(count: int) -> str:
    """``1235814400`` is ``1.2B``, ``134515008`` is ``134.52M``."""
    for unit, letter, digits in ((10**9, "B", 1), (10**6, "M", 2)):
        if count >= unit:
            return f"{count / unit:.{0 if count % unit == 0 else digits}f}{letter}"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)


def _config(header: GgufHeader, request: Mapping[str, Any]) -> dict[str, go_json.Value]:
    architecture = header.text("general.architecture") or "unknown"
    built_in = RENDERED_BY_SERVER.get(architecture, "")
    optional = {
        "renderer": request.get("renderer") or built_in,
        "parser": request.get("parser") or built_in,
        "requires": request.get("requires"),
    }
    return {
        "model_format": "gguf",
        "model_family": architecture,
        "model_families": [architecture],
        "model_type": human_number(sum(math.prod(tensor.shape) for tensor in header.tensors)),
        # F32 has the number 0, which the server takes for "not said"
        "file_type": _FILE_TYPES.get(header.integer("general.file_type") or 0, "unknown"),
        **{key: value for key, value in optional.items() if value},
        "architecture": "amd64",
        "os": "linux",
    }
