"""One safetensors file, read in the order of its bytes. No tensor data is read.

    8 bytes   length N of the header, unsigned, little endian, at most 100,000,000
    N bytes   JSON object: tensor name → {"dtype", "shape", "data_offsets": [begin, end]}, and
              optionally "__metadata__": string → string
    the rest  tensor data; offsets count from its first byte; no overlap, no hole, nothing after it

The rules are those of ``safetensors/src/tensor.rs`` 0.8 (``read_metadata``, ``Metadata::validate``).
Whatever it refuses is refused here. Four things that it lets pass are refused here too, because
no writer makes them and readers disagree on them: white space before the opening brace (the format
description forbids it), a key given twice, a tensor entry written as an array, and a dtype written
as an object. (It stops at JSON nested 128 deep in ignored keys; here the interpreter's limit holds.)
"""

from __future__ import annotations

import json
import math
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ggufpack.checkpoint.jsonfiles import (
    DuplicateKeyError,
    refuse_half_characters,
    refuse_many_values,
    unique_keys,
)
from ggufpack.errors import TensorFileError

MAX_HEADER_BYTES = 100_000_000
# Each costs some 60 µs and 3.5 kB until a plan is made (docs/scale.md), and a header of 100 MB can
# name a million. The most that is known: Kimi K2 Thinking, 207,360 of experts alone, three (packed,
# scale, shape) for each of 3 matrices of 384 experts in 60 layers.
MAX_TENSORS = 500_000
_LENGTH_BYTES = 8
_USIZE_END = 1 << 64
_METADATA = "__metadata__"
_COPY_AGAIN = "Copy or download this file again, completely."

# Bits of one element. F4 and the F6 types are packed, so a tensor must fill whole bytes.
DTYPE_BITS: dict[str, int] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor is. ``begin`` and ``end`` are bytes from the start of ``file``."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    end: int

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a scalar, whose shape is ``()``."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.end - self.begin


def read_header(path: Path) -> list[TensorInfo]:
    """The tensors of one safetensors file, in the order of their data.

    Raises:
        TensorFileError: the file is unreadable, damaged, truncated, not safetensors, or of more than
            ``MAX_TENSORS``.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise TensorFileError(f"{path} is not a regular file.", path=path)
        with path.open("rb") as file:
            header = _read_header_bytes(file, path, status.st_size)
    except OSError as error:
        raise TensorFileError(f"{path} cannot be read: {error.strerror or error}.", path=path) from error
    tensors = _tensors(_parse(header, path), path, _LENGTH_BYTES + len(header))
    _check_coverage(tensors, path, _LENGTH_BYTES + len(header), status.st_size)
    return tensors


def too_many_tensors(place: Path) -> TensorFileError:
    """The error for a file or folder of more than ``MAX_TENSORS``."""
    return TensorFileError(
        f"{place} has more than {MAX_TENSORS:,} tensors, the most that is read.",
        action="Do not use this checkpoint unless you know where it comes from.",
        path=place,
    )


def _read_header_bytes(file: BinaryIO, path: Path, size: int) -> bytes:
    prefix = file.read(_LENGTH_BYTES)
    if prefix == b"version ":
        raise TensorFileError(
            f"{path} is a Git LFS pointer, not the file itself.",
            action="Run git lfs pull in its repository.",
            path=path,
        )
    if len(prefix) < _LENGTH_BYTES:
        raise TensorFileError(
            f"{path} has {len(prefix)} bytes, too few for a safetensors file.", action=_COPY_AGAIN, path=path
        )
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        raise TensorFileError(
            f"{path} is not a safetensors file: its header would be {length:,} bytes, "
            f"and at most {MAX_HEADER_BYTES:,} are allowed.",
            action="Check that it is the file it is named after.",
            path=path,
        )
    header = file.read(length)
    if len(header) < length:
        missing = _LENGTH_BYTES + length - size
        raise TensorFileError(
            f"{path} is cut off in its header: at least {missing:,} bytes are missing.",
            action=_COPY_AGAIN,
            path=path,
        )
    return header


def _parse(header: bytes, path: Path) -> dict[str, Any]:
    def damaged(why: str) -> TensorFileError:
        return TensorFileError(f"{path} has a damaged header: {why}.", action=_COPY_AGAIN, path=path)

    if not header.startswith(b"{"):
        raise damaged("it does not begin with '{'")
    try:
        text = header.decode("utf-8")
        if header.count(b'"data_offsets"') > MAX_TENSORS:
            raise too_many_tensors(path)
        refuse_many_values(header)
        value = json.loads(
            text,
            object_pairs_hook=unique_keys,
            parse_int=_parse_integer,
            parse_float=_parse_number,
            parse_constant=_refuse_constant,
        )
        refuse_half_characters(value, text)
    except DuplicateKeyError as error:
        raise TensorFileError(
            f"{path} names {error.key!r} twice in its header.",
            action="Save the checkpoint again.",
            path=path,
            key=error.key,
        ) from error
    except UnicodeDecodeError as error:
        raise damaged(f"it is not UTF-8 ({error.reason})") from error
    except (ValueError, RecursionError) as error:
        raise damaged(f"it is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise damaged("it is not a JSON object")
    metadata = value.pop(_METADATA, None)
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(item, str) for item in metadata.values())
    ):
        raise damaged(f"{_METADATA} must map strings to strings")
    return value


def _parse_integer(digits: str) -> int | float:
    # serde reads "-0" as a floating-point number, which is no size
    return -0.0 if digits == "-0" else int(digits)


def _parse_number(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the number {digits[:20]} is out of range")
    return number


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _tensors(entries: dict[str, Any], path: Path, data_begin: int) -> list[TensorInfo]:
    tensors = [_tensor(name, entry, path, data_begin) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    return tensors


def _tensor(name: str, entry: object, path: Path, data_begin: int) -> TensorInfo:
    def damaged(why: str) -> TensorFileError:
        return TensorFileError(
            f"{path}: tensor {name!r}: {why}.", action="Save the checkpoint again.", path=path, key=name
        )

    if not isinstance(entry, dict):
        raise damaged("its header entry is not a JSON object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise damaged(f"unknown dtype {dtype!r}")
    if not isinstance(shape, list) or not all(_is_size(size) for size in shape):
        raise damaged(f"shape {shape!r} is not a list of sizes")
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(_is_size(offset) for offset in offsets)):
        raise damaged(f"data_offsets {offsets!r} are not two byte offsets")
    begin, end = offsets
    if begin > end:
        raise damaged(f"its data begins at {begin:,} and ends before that, at {end:,}")
    elements = 1
    for size in shape:
        elements *= size
        # Checked after each factor, as safetensors does: [2**40, 2**40, 0] overflows there
        if elements >= _USIZE_END:
            raise damaged(f"shape {shape!r} has more elements than 64 bits can count")
    bits = elements * DTYPE_BITS[dtype]
    if bits >= _USIZE_END:
        raise damaged(f"shape {shape!r} of {dtype} is larger than 64 bits can count")
    if bits % 8:
        raise damaged(f"shape {shape!r} of {dtype} does not fill whole bytes")
    if end - begin != bits // 8:
        raise damaged(f"shape {shape!r} of {dtype} needs {bits // 8:,} bytes, and it has {end - begin:,}")
    # a large model has 100,000 tensors, and JSON makes a new string of each dtype
    return TensorInfo(name, sys.intern(dtype), tuple(shape), path, data_begin + begin, data_begin + end)


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < _USIZE_END


def _check_coverage(tensors: list[TensorInfo], path: Path, data_begin: int, size: int) -> None:
    """Data without overlap and hole, from the header's end to the file's end."""
    position = data_begin
    for tensor in tensors:
        if tensor.begin != position:
            what = "overlaps the tensor before it" if tensor.begin < position else "leaves a hole before it"
            raise TensorFileError(
                f"{path}: the data of tensor {tensor.name!r} {what}.",
                action="Save the checkpoint again.",
                path=path,
                key=tensor.name,
            )
        position = tensor.end
    if size < position:
        raise TensorFileError(
            f"{path} is cut off: {position - size:,} of {position:,} bytes are missing.",
            action=_COPY_AGAIN,
            path=path,
        )
    if size > position:
        raise TensorFileError(
            f"{path} has {size - position:,} bytes after the last tensor.", action=_COPY_AGAIN, path=path
        )
