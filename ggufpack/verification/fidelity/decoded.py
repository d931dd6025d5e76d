"""Child side: a copy of a GGUF whose weights are decoded to F32, and everything else is the file's own.

llama.cpp rounds what goes into a product with quantised weights to 8 bits, and a small mistake hides below
that. It multiplies F32 weights without any rounding, so with this copy only what the file says can differ
from the source: its values, names, order and keys.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ggufpack.gguf_header import GgufHeader, GgufTensor, read_gguf_header
from ggufpack.quantize.types import TensorType

_CHUNK = 1 << 22  # weights decoded, or bytes copied, at a time
_F32 = int(TensorType.F32)
_ALIGNMENT = "general.alignment"
_DEFAULT_ALIGNMENT = 32


def decoded_size(path: Path) -> int:
    """Bytes of the copy's weights.

    Raises:
        GgufFileError: not a whole GGUF.
    """
    return sum(_nbytes(tensor) for tensor in read_gguf_header(path).tensors)


def write_decoded(source: Path, target: Path, gguf: Any) -> None:
    """Write the copy. Tensors of types that are no weights' (I32) are copied as they are.

    Args:
        source: the GGUF.
        target: not there yet.
        gguf: the vendored module.

    Raises:
        GgufFileError: not a whole GGUF.
        OSError: it cannot be written.
    """
    header = read_gguf_header(source)
    if header.problems:
        raise header.problems[0]
    alignment = header.integer(_ALIGNMENT) or _DEFAULT_ALIGNMENT
    with source.open("rb") as file, target.open("xb") as out:
        out.write(file.read(header.tensors_at))
        out.write(b"".join(_descriptions(header, alignment)))
        for tensor in header.tensors:
            _pad(out, alignment)
            file.seek(tensor.offset)
            if _is_decoded(tensor):
                for values in _values(file, tensor, gguf):
                    out.write(values.tobytes())
            else:
                for start in range(0, tensor.nbytes, _CHUNK):
                    out.write(file.read(min(_CHUNK, tensor.nbytes - start)))
        _pad(out, alignment)


def _is_decoded(tensor: GgufTensor) -> bool:
    return tensor.type_number != _F32 and tensor.type_number in set(TensorType)


def _nbytes(tensor: GgufTensor) -> int:
    return 4 * math.prod(tensor.shape) if _is_decoded(tensor) else tensor.nbytes


def _descriptions(header: GgufHeader, alignment: int) -> Iterator[bytes]:
    """As ``gguf_header`` reads them, with the types and places of the copy."""
    offset = 0
    for tensor in header.tensors:
        name = tensor.name.encode()
        kind = _F32 if _is_decoded(tensor) else tensor.type_number
        yield struct.pack("<Q", len(name)) + name
        yield struct.pack(f"<I{len(tensor.shape)}QIQ", len(tensor.shape), *tensor.shape, kind, offset)
        offset += -(-_nbytes(tensor) // alignment) * alignment


def _values(file: BinaryIO, tensor: GgufTensor, gguf: Any) -> Iterator[NDArray[np.float32]]:
    kind = gguf.GGMLQuantizationType(tensor.type_number)
    columns = tensor.shape[0]
    rows = math.prod(tensor.shape[1:])
    size = TensorType(tensor.type_number).size(columns)
    step = max(1, _CHUNK // columns)
    for start in range(0, rows, step):
        count = min(step, rows - start)
        stored = np.frombuffer(file.read(count * size), np.uint8).reshape(count, size)
        if kind is gguf.GGMLQuantizationType.F16:
            yield stored.view("<f2").astype("<f4")
        else:
            yield gguf.quants.dequantize(stored, kind).astype("<f4", copy=False)


def _pad(out: BinaryIO, alignment: int) -> None:
    out.write(bytes(-out.tell() % alignment))
