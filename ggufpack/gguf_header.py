"""The header of a GGUF file, read in the order of its bytes. No tensor data is read.

    "GGUF", version u32 (2 or 3), tensor count u64, key count u64
    keys     name (u64 length, UTF-8), type u32, value; an array: type u32, count u64, values
    tensors  name, dimensions u32 (at most 4), a u64 each, type u32, offset u64 from the data's start
    padding to general.alignment, then the data, each tensor padded to the alignment

What is accepted follows llama.cpp's ggml/src/gguf.cpp (``gguf_init_from_file_impl``). The sizes of
tensor types are those of the ``gguf`` package. Its ``GGUFReader`` does not serve here: it makes an
array of each element before it compares a length with the file's size, so that a file of 120 bytes
takes gigabytes. Here no length is trusted beyond the file's end, numbers stay packed, and the header
may have 128 MiB (real ones have 20 at most), so that memory is bounded whatever the file says.
"""

from __future__ import annotations

import math
import struct
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY, _BOOL = 8, 9, 7
# struct code of a value by its type (gguf.cpp, GGUF_TYPE_SIZE)
_FORMS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_MAX_NAME = 64  # GGML_MAX_NAME of tensors
_MAX_KEY = 1 << 16
_MAX_DIMENSIONS = 4
_ALIGNMENT = "general.alignment"
_DEFAULT_ALIGNMENT = 32
_SPLIT_COUNT = "split.count"
_I64_END = 1 << 63
_MAX_HEADER = 128 << 20
_SOURCES = {
    b"version ": "a Git LFS pointer: run git lfs pull in its repository",
    b"PK\x03\x04": "a ZIP file (pickled weights of PyTorch are one)",
    b"ggjt": "a GGML file of 2023, which llama.cpp reads no more",
    b"<!DOC": "a web page: the download failed",
    b"<html": "a web page: the download failed",
}


class GgufFileError(ValueError):
    """Not a GGUF, or not a whole one.

    Args:
        finding: id of the finding that it is.
        problem: a clause that says why.
        action: what to do.
        key: the key or tensor.
    """

    def __init__(self, finding: str, problem: str, action: str, key: str | None = None) -> None:
        self.finding = finding
        self.problem = problem
        self.action = action
        self.key = key
        super().__init__(problem)


_AGAIN = "Copy or download this file again, completely."
_WRITE_AGAIN = "Make the file again with the program that wrote it."


@dataclass(frozen=True)
class GgufTensor:
    """One tensor. ``shape`` is ggml's, the row length first; ``offset`` counts from the file's start.

    ``type_name`` is ``None``, and ``nbytes`` 0, for a type that the ``gguf`` package does not know.
    """

    name: str
    shape: tuple[int, ...]
    type_number: int
    type_name: str | None
    offset: int
    nbytes: int


@dataclass(frozen=True)
class GgufHeader:
    """What stands in front of the weights.

    Attributes:
        keys: every key and its value; an array is a list of strings or an ``array`` of numbers.
        tensors: in the order of the file.
        tensors_at: where their descriptions begin, behind the keys; bytes from the file's start.
        problems: what is wrong behind the header: overlapping, missing or unknown tensors.
    """

    path: Path
    size: int
    version: int
    keys: Mapping[str, Any] = field(repr=False)
    tensors: tuple[GgufTensor, ...] = field(repr=False)
    problems: tuple[GgufFileError, ...] = ()
    tensors_at: int = 0

    def text(self, key: str) -> str | None:
        """A key's value when it is a string."""
        value = self.keys.get(key)
        return value if isinstance(value, str) else None

    def integer(self, key: str) -> int | None:
        """A key's value when it is a whole number."""
        value = self.keys.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def flag(self, key: str) -> bool | None:
        """A key's value when it is a boolean."""
        value = self.keys.get(key)
        return value if isinstance(value, bool) else None

    def texts(self, key: str) -> Sequence[str] | None:
        """A key's value when it is an array of strings."""
        value = self.keys.get(key)
        return value if isinstance(value, list) else None

    def numbers(self, key: str) -> Sequence[int] | None:
        """A key's value when it is an array of numbers."""
        value = self.keys.get(key)
        return value if isinstance(value, array) else None


def read_gguf_header(path: Path) -> GgufHeader:
    """Read and check the header.

    Raises:
        GgufFileError: not a GGUF, or its header is damaged or cut off.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        return _read(_Reader(file, size), path)


class _Reader:
    """A file, and how much of it is left."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self.size = size
        self.position = 0

    def take(self, count: int, what: str) -> bytes:
        if count > self.size - self.position:
            raise GgufFileError(
                "GP264",
                f"it ends inside its header: {what} would be {count:,} bytes, and "
                f"{self.size - self.position:,} are left",
                _AGAIN,
            )
        if self.position + count > _MAX_HEADER:
            raise _damaged(f"its header would be more than {_MAX_HEADER:,} bytes: {what} alone is {count:,}")
        data = self._file.read(count)
        self.position += len(data)
        return data

    def numbers(self, form: str, what: str) -> tuple[Any, ...]:
        form = f"<{form}"
        return struct.unpack(form, self.take(struct.calcsize(form), what))

    def text(self, what: str, limit: int | None = None) -> str:
        (length,) = self.numbers("Q", f"the length of {what}")
        if limit is not None and length > limit:
            raise _damaged(f"{what} would be {length:,} bytes long")
        # a token may hold bytes that are no UTF-8; a name may not
        return self.take(length, what).decode("utf-8", "strict" if limit is not None else "replace")


def _damaged(problem: str, key: str | None = None) -> GgufFileError:
    return GgufFileError("GP265", problem, _AGAIN, key)


def _read(reader: _Reader, path: Path) -> GgufHeader:
    _check_magic(reader)
    (version,) = reader.numbers("I", "the version")
    if version not in _VERSIONS:
        if int.from_bytes(version.to_bytes(4, "big"), "little") in _VERSIONS:
            raise GgufFileError(
                "GP263",
                "it is big-endian, which neither Ollama nor this program reads",
                "Convert it with gguf-convert-endian of the gguf package.",
            )
        raise GgufFileError(
            "GP263", f"it is GGUF of version {version}, and 2 and 3 are read", "Convert the model again."
        )
    tensor_count, key_count = reader.numbers("QQ", "the counts")
    keys: dict[str, Any] = {}
    try:
        for number in range(key_count):
            name = reader.text(f"the name of key {number + 1} of {key_count:,}", _MAX_KEY)
            if name in keys:
                raise _damaged(f"it holds the key {name} twice", name)
            keys[name] = _value(reader, name)
        split = keys.get(_SPLIT_COUNT)
        if isinstance(split, int) and split > 1:
            raise GgufFileError(
                "GP263",
                f"it is one of {split} parts of a split model, and Ollama takes one file",
                "Join them with llama-gguf-split --merge FIRST-PART OUTPUT.",
                _SPLIT_COUNT,
            )
        tensors_at = reader.position
        infos = [_tensor_info(reader, number, tensor_count) for number in range(tensor_count)]
    except UnicodeDecodeError:
        raise _damaged(f"there is a name that is no UTF-8 before byte {reader.position:,}") from None
    alignment = keys.get(_ALIGNMENT, _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise _damaged(f"{_ALIGNMENT} is {alignment!r}, not a power of two", _ALIGNMENT)
    start = -(-reader.position // alignment) * alignment
    tensors = tuple(_tensor(*info, start) for info in infos)
    problems = tuple(_placement(tensors, alignment, start, reader.size))
    return GgufHeader(path, reader.size, version, keys, tensors, problems, tensors_at)


def _check_magic(reader: _Reader) -> None:
    if not reader.size:
        raise GgufFileError("GP262", "it is empty", _AGAIN)
    magic = reader.take(min(len(MAGIC), reader.size), "the magic")
    if magic == MAGIC:
        return
    begin = magic + reader.take(min(4, reader.size - reader.position), "the beginning")
    known = next((what for prefix, what in _SOURCES.items() if begin.startswith(prefix)), None)
    if known is None and not any(magic):
        known = "zeros: the download is not complete"
    looks = f"; it looks like {known}" if known else ""
    raise GgufFileError(
        "GP262",
        f'it begins with {magic!r}, not with "GGUF"{looks}',
        "Check that it is the file it is named after.",
    )


def _value(reader: _Reader, key: str) -> Any:
    (kind,) = reader.numbers("I", f"the type of {key}")
    if kind == _STRING:
        return reader.text(key)
    if kind in _FORMS:
        return _number(reader, kind, key)
    if kind != _ARRAY:
        raise _damaged(f"{key} has the unknown type {kind}", key)
    kind, count = reader.numbers("IQ", key)
    if kind == _STRING:
        return [reader.text(f"element {number} of {key}") for number in range(count)]
    if kind not in _FORMS:
        raise _damaged(f"{key} is an array of the unknown type {kind}", key)
    return _array(reader, kind, count, key)


def _number(reader: _Reader, kind: int, key: str) -> Any:
    return reader.numbers(_FORMS[kind], key)[0]


def _array(reader: _Reader, kind: int, count: int, key: str) -> array[Any]:
    values = array("B" if kind == _BOOL else _FORMS[kind])
    values.frombytes(reader.take(count * values.itemsize, key))
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _tensor_info(reader: _Reader, number: int, count: int) -> tuple[str, tuple[int, ...], int, int]:
    name = reader.text(f"the name of tensor {number + 1} of {count:,}", _MAX_KEY)
    if len(name.encode()) >= _MAX_NAME:
        raise _damaged(f"a tensor's name has {len(name)} characters, and 63 is the most", name[:_MAX_NAME])
    (dimensions,) = reader.numbers("I", name)
    if dimensions > _MAX_DIMENSIONS:
        raise _damaged(f"{name} has {dimensions} dimensions", name)
    *shape, kind, offset = reader.numbers(f"{dimensions}QIQ", name)
    if math.prod(shape) >= _I64_END:
        raise _damaged(f"{name} would have {math.prod(shape):,} weights", name)
    return name, tuple(shape), kind, offset


def _tensor(name: str, shape: tuple[int, ...], kind: int, offset: int, start: int) -> GgufTensor:
    import gguf

    known = {int(each): each for each in gguf.GGMLQuantizationType}.get(kind)
    if known is None:
        return GgufTensor(name, shape, kind, None, start + offset, 0)
    weights, size = gguf.GGML_QUANT_SIZES[known]
    row = shape[0] if shape else 1
    if row % weights:
        raise _damaged(f"{name}: a row of {row} weights is no whole number of {known.name} blocks", name)
    return GgufTensor(name, shape, kind, str(known.name), start + offset, math.prod(shape) // weights * size)


def _placement(tensors: tuple[GgufTensor, ...], alignment: int, start: int, size: int) -> list[GgufFileError]:
    """Tensors stand one behind the other, without a hole, and the file holds them all."""
    found = []
    seen: set[str] = set()
    position = start
    for tensor in tensors:
        if tensor.name in seen:
            found.append(_damaged(f"there are two tensors of the name {tensor.name}", tensor.name))
        seen.add(tensor.name)
        if tensor.type_name is None:
            found.append(
                GgufFileError(
                    "GP267",
                    f"{tensor.name} has the type {tensor.type_number}, which llama.cpp does not have (or"
                    " not any"
                    " more)",
                    "Convert the model again.",
                    tensor.name,
                )
            )
            position = -1  # its size is not known, so the next one's place cannot be checked
            continue
        if position >= 0 and tensor.offset != position:
            found.append(
                _damaged(f"the data of {tensor.name} is not behind the tensor before it", tensor.name)
            )
        position = -(-(tensor.offset + tensor.nbytes) // alignment) * alignment
    ends = [tensor.offset + tensor.nbytes for tensor in tensors]
    lost = [tensor for tensor, end in zip(tensors, ends, strict=True) if end > size]
    if lost:
        found.insert(
            0,
            GgufFileError(
                "GP264",
                f"it is cut off: {max(ends) - size:,} of {max(ends):,} bytes are missing, and with them "
                f"{len(lost)} of {len(tensors)} tensors, in part or whole",
                _AGAIN,
                lost[0].name,
            ),
        )
    return found
