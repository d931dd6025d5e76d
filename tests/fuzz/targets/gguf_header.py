"""A GGUF file: refused, or its keys and tensors are such as the file can hold."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence

from ggufpack.gguf_header import GgufFileError, read_gguf_header
from tests.fuzz import scratch

WORDS = (b"GGUF", b"general.alignment", b"general.architecture", b"split.count", bytes(8), b"\xff" * 8)


def one_input(data: bytes) -> None:
    path = scratch.put("model.gguf", data)
    try:
        header = read_gguf_header(path)
    except GgufFileError as error:
        assert error.finding.startswith("GP26")
        assert error.problem
        return
    assert 0 < header.tensors_at <= len(data)
    for key, value in header.keys.items():
        key.encode()
        assert isinstance(value, (bool, int, float, str, list, array))
    if not header.problems:
        for tensor in header.tensors:
            assert header.tensors_at <= tensor.offset <= tensor.offset + tensor.nbytes <= len(data)


def seeds() -> Iterator[bytes]:
    yield gguf([], [])
    yield gguf(
        [
            ("general.architecture", 8, text("llama")),
            ("general.alignment", 4, struct.pack("<I", 64)),
            ("a.float", 6, struct.pack("<f", 1.5)),
            ("a.flag", 7, b"\1"),
            ("a.long", 10, struct.pack("<Q", 9)),
            ("tokens", 9, struct.pack("<IQ", 8, 2) + text("a") + text("b")),
            ("scores", 9, struct.pack("<IQ", 6, 2) + bytes(8)),
        ],
        [("token_embd.weight", (32, 2), 0, 256), ("output.weight", (32, 1), 8, 34)],
        alignment=64,
    )


def gguf(
    keys: Sequence[tuple[str, int, bytes]],
    tensors: Sequence[tuple[str, tuple[int, ...], int, int]],
    *,
    alignment: int = 32,
) -> bytes:
    """A file from (key, type, value) and (name, shape, type, bytes)."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for key, kind, value in keys:
        out += text(key) + struct.pack("<I", kind) + value
    data = b""
    for name, shape, kind, size in tensors:
        out += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, len(data))
        data += bytes(-(-size // alignment) * alignment)
    return out + bytes(-len(out) % alignment) + data


def text(value: str) -> bytes:
    """A string as GGUF has it."""
    return struct.pack("<Q", len(value)) + value.encode()
