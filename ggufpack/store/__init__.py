"""The offline store: a folder that ``ollama serve`` takes as its OLLAMA_MODELS, written without a server.

    STORE/blobs/sha256-HEX                         weights, texts, parameters, configs: by content
    STORE/manifests/HOST/NAMESPACE/MODEL/TAG       names the blobs of one model

go_json, manifest, layers and index are pure; blobs and folder read and write the store; package,
check, export and unpack are what the commands do.
"""

from __future__ import annotations
