"""model.safetensors.index.json beside two shards: refused, or it names files of its own folder only."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from ggufpack.checkpoint.layout import INDEX
from ggufpack.checkpoint.tensors import read_tensors
from ggufpack.errors import TensorFileError
from tests.fuzz import scratch

IS_JSON = True
WORDS = (
    b'"weight_map"',
    b'"model-00001-of-00002.safetensors"',
    b"../",
    b"\\u0000",
    b"\\ud800",
    b".safetensors",
)
_SHARDS = {name: f"model-0000{number}-of-00002.safetensors" for number, name in enumerate("ab", 1)}


def one_input(data: bytes) -> None:
    path = _folder() / INDEX
    path.write_bytes(data)
    try:
        table, findings = read_tensors(path.parent)
    except TensorFileError as error:
        str(error).encode()
        return
    assert set(table) <= {"a", "b"}
    assert all(file.parent == path.parent for file in table.files)
    for finding in findings:
        finding.message.encode()


def _folder() -> Path:
    folder = scratch.folder() / "shards"
    if not folder.is_dir():
        folder.mkdir()
        for name, shard in _SHARDS.items():
            header = json.dumps({name: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
            (folder / shard).write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    return folder


def seeds() -> Iterator[bytes]:
    yield json.dumps({"metadata": {"total_size": 8}, "weight_map": _SHARDS}).encode()
    yield json.dumps({"weight_map": {"a": _SHARDS["b"], "b": _SHARDS["a"]}}).encode()
    yield json.dumps({"weight_map": {**_SHARDS, "c": "../model.safetensors"}}).encode()
