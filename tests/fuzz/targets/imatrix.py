"""An importance matrix, GGUF or legacy: refused, or finite numbers, no more than the file holds."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from ggufpack.errors import ImportanceMatrixError
from ggufpack.quantize.imatrix import load_imatrix
from tests.fuzz import scratch
from tests.fuzz.targets.gguf_header import gguf, text

WORDS = (b"GGUF", b"imatrix.datasets", b"imatrix.chunk_count", b"imatrix.chunk_size", b".in_sum2", b".counts")


def one_input(data: bytes) -> None:
    path = scratch.put("imatrix.gguf", data)
    try:
        matrix = load_imatrix(path)
    except ImportanceMatrixError as error:
        str(error).encode()
        return
    assert matrix.entries
    for values in matrix.entries.values():
        assert np.isfinite(values).all()
        assert (values >= 0).all()
    assert sum(values.nbytes for values in matrix.entries.values()) <= len(data)
    assert matrix.header_values()


def seeds() -> Iterator[bytes]:
    keys = [
        ("general.type", 8, text("imatrix")),
        ("imatrix.datasets", 9, struct.pack("<IQ", 8, 1) + text("calibration.txt")),
        ("imatrix.chunk_count", 4, struct.pack("<I", 2)),
        ("imatrix.chunk_size", 4, struct.pack("<I", 512)),
    ]
    tensors = [("blk.0.attn_q.weight.in_sum2", (8, 2), 0, 64), ("blk.0.attn_q.weight.counts", (1, 2), 0, 8)]
    yield gguf(keys, tensors)
    name = b"blk.0.attn_q.weight"
    entry = struct.pack("<i", len(name)) + name + struct.pack("<ii4f", 2, 4, 1, 2, 3, 4)
    yield struct.pack("<i", 1) + entry
    yield struct.pack("<i", 1) + entry + struct.pack("<ii", 5, 3) + b"txt"
