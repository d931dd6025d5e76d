"""A safetensors file: refused, or every tensor lies inside the file, one behind the other."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

from ggufpack.checkpoint.header import MAX_HEADER_BYTES, read_header
from ggufpack.errors import TensorFileError
from tests.fuzz import scratch

IS_JSON = True
_AS_FILE = 0xFF  # a first byte that no JSON begins with: what follows is the file as it is

WORDS = (
    b'"dtype"',
    b'"shape"',
    b'"data_offsets"',
    b'"__metadata__"',
    b'"F32"',
    b'"F4"',
    b'"BF16"',
    b"\\ud800",
)


def one_input(data: bytes) -> None:
    """A header whose length is right, with as much data as the tensors want; or a whole file."""
    content = data[1:] if data[:1] == bytes([_AS_FILE]) else struct.pack("<Q", len(data)) + data + bytes(64)
    path = scratch.put("model.safetensors", content)
    try:
        tensors = read_header(path)
    except TensorFileError as error:
        assert error.path == path
        str(error).encode()
        return
    position = 8 + int.from_bytes(content[:8], "little")
    assert position <= MAX_HEADER_BYTES
    for tensor in tensors:
        assert tensor.begin == position <= tensor.end <= len(content)
        tensor.name.encode()
        position = tensor.end
    assert position == len(content)


def seeds() -> Iterator[bytes]:
    entry = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    half = {"dtype": "BF16", "shape": [24], "data_offsets": [16, 64]}
    for header in (
        {"a": {**entry, "shape": [4, 4], "data_offsets": [0, 64]}},
        {"__metadata__": {"format": "pt"}, "model.a": entry, "model.b": half},
        {"a": entry, "e": {"dtype": "F4", "shape": [96], "data_offsets": [16, 64]}},
        {"s": {"dtype": "I64", "shape": [], "data_offsets": [0, 8]}, "b": {**half, "data_offsets": [8, 64]}},
    ):
        text = json.dumps(header).encode()
        yield text
        yield bytes([_AS_FILE]) + struct.pack("<Q", len(text)) + text + bytes(64)
