"""The two file formats of importance matrices, read in the order of their bytes.

GGUF (llama.cpp's tools/imatrix/imatrix.cpp, ``save_imatrix``), little endian:

    "GGUF", version u32 (2 or 3), tensor count u64, key count u64
    keys     name, type u32, value; what counts is imatrix.datasets, .chunk_count and .chunk_size
    tensors  name, dimensions u32, a u64 each, type u32, offset u64 from the first byte of the data
    padding to general.alignment, then the data: NAME.in_sum2 holds sums of squared activations,
    (experts, columns) in float32, and NAME.counts how many were added, per expert in float32

Legacy (``save_imatrix_legacy``), integers are int32:

    entry count, then per entry: length of the name, the name, calls, value count, float32 values
    optionally the chunk count, then optionally the length of a dataset's name, and the name

What is accepted follows common/imatrix-loader.cpp and ``load_imatrix`` in tools/quantize/quantize.cpp.
gguf-py's ``GGUFReader`` does not serve here: it makes an array of each element before it compares
a length with the file's size, so that a file of 120 bytes took 18 s and 2.9 GB.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_UINT32, _STRING, _ARRAY = 4, 8, 9
# bytes of a value by its type (ggml/src/gguf.cpp, GGUF_TYPE_SIZE)
_VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_F32 = 0
_DATASETS, _CHUNK_COUNT, _CHUNK_SIZE = (f"imatrix.{key}" for key in ("datasets", "chunk_count", "chunk_size"))
_ALIGNMENT = "general.alignment"
_SUMS, _COUNTS = ".in_sum2", ".counts"
_INT32_END = 1 << 31


class DamagedFileError(ValueError):
    """Not an importance matrix, or not a whole one; the text is a clause that says why."""


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        entries: tensor name to mean squared activations, (experts * columns,), as yet unchecked.
        datasets: names of the texts it was computed on, as bytes.
        chunks: how many pieces of text; 0 where the file does not say.
    """

    entries: Mapping[str, Floats]
    datasets: tuple[bytes, ...]
    chunks: int


def read_contents(file: BinaryIO, size: int) -> Contents:
    """Read a file of ``size`` bytes, of either format.

    Raises:
        DamagedFileError: it is neither, or damaged. No length is trusted beyond the file's end.
        OSError: it cannot be read.
    """
    reader = _Reader(file, size)
    with np.errstate(all="ignore"):  # what becomes of odd values is looked at when all are read
        return _read_gguf(reader) if reader.peek(len(MAGIC)) == MAGIC else _read_legacy(reader)


class _Reader:
    """A file, and how much of it is left."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self.position = 0

    @property
    def left(self) -> int:
        return self._size - self.position

    def peek(self, count: int) -> bytes:
        data = self._file.read(count)
        self._file.seek(self.position)
        return data

    def seek(self, position: int) -> None:
        self._file.seek(position)
        self.position = position

    def check_room(self, count: int, what: str) -> None:
        if not 0 <= count <= self.left:
            raise DamagedFileError(f"{what} would be {count:,} bytes, and {max(self.left, 0):,} are left")

    def take(self, count: int, what: str) -> bytes:
        self.check_room(count, what)
        data = self._file.read(count)
        if len(data) != count:
            raise DamagedFileError("it became shorter while it was read")
        self.position += count
        return data

    def numbers(self, form: str, what: str) -> tuple[Any, ...]:
        form = f"<{form}"
        return struct.unpack(form, self.take(struct.calcsize(form), what))

    def floats(self, count: int, what: str) -> Floats:
        return np.frombuffer(self.take(count * 4, what), dtype="<f4").astype(np.float32, copy=False)

    def name(self, length: int, what: str) -> str:
        try:
            text = self.take(length, what).decode()
        except UnicodeDecodeError:
            raise DamagedFileError(f"{what} is not text") from None
        if not text.isprintable() or not text:
            raise DamagedFileError(f"{what} is not a name")
        return text


# --- GGUF ---------------------------------------------------------------------


def _read_gguf(reader: _Reader) -> Contents:
    _, version, tensor_count, key_count = reader.numbers("4sIQQ", "the header")
    if version not in _VERSIONS:
        raise DamagedFileError(f"it is GGUF of version {version}, not 2 or 3")
    values: dict[str, Any] = {}
    for _ in range(key_count):
        key = _gguf_name(reader, "a key")
        if key in values:
            raise DamagedFileError(f"it holds the key {key} twice")
        values[key] = _gguf_value(reader, key)
    missing = [key for key in (_DATASETS, _CHUNK_COUNT, _CHUNK_SIZE) if key not in values]
    if missing:
        raise DamagedFileError(f"it is a GGUF file without {', '.join(missing)}")
    alignment = _unsigned(values, _ALIGNMENT, 32)
    if alignment & (alignment - 1) or not alignment:
        raise DamagedFileError(f"{_ALIGNMENT} is {alignment}, not a power of two")
    chunks = _unsigned(values, _CHUNK_COUNT)
    if chunks >= _INT32_END:
        raise DamagedFileError(f"{_CHUNK_COUNT} is {chunks:,}")
    infos: dict[str, tuple[int, int, int]] = {}
    for _ in range(tensor_count):
        name, info = _tensor_info(reader)
        if name in infos:
            raise DamagedFileError(f"there are two tensors of the name {name}")
        infos[name] = info
    reader.seek(-(-reader.position // alignment) * alignment)
    return Contents(_gguf_entries(reader, infos), _datasets(values[_DATASETS]), chunks)


def _gguf_name(reader: _Reader, what: str) -> str:
    (length,) = reader.numbers("Q", what)
    return reader.name(length, what)


def _gguf_value(reader: _Reader, key: str) -> Any:
    """The value of a key that counts here; of any other one just as much as is needed to pass it."""
    (kind,) = reader.numbers("I", key)
    if kind == _UINT32:
        return reader.numbers("I", key)[0]
    if kind == _STRING:
        return _gguf_string(reader, key)
    if kind != _ARRAY:
        return reader.take(_value_bytes(kind, key), key)
    kind, count = reader.numbers("IQ", key)
    if kind != _STRING:
        size = count * _value_bytes(kind, key)
        reader.check_room(size, key)
        reader.seek(reader.position + size)
        return None
    texts = (_gguf_string(reader, key) for _ in range(count))
    if key == _DATASETS:
        return tuple(texts)
    for _ in texts:
        pass
    return None


def _gguf_string(reader: _Reader, what: str) -> bytes:
    (length,) = reader.numbers("Q", what)
    return reader.take(length, what)


def _value_bytes(kind: int, key: str) -> int:
    if kind not in _VALUE_BYTES:
        raise DamagedFileError(f"{key} has the unknown type {kind}")
    return _VALUE_BYTES[kind]


def _unsigned(values: Mapping[str, Any], key: str, default: int = 0) -> int:
    value = values.get(key, default)
    if not isinstance(value, int):
        raise DamagedFileError(f"{key} is not an unsigned 32-bit number")
    return value


def _datasets(value: Any) -> tuple[bytes, ...]:
    if not isinstance(value, tuple):
        raise DamagedFileError(f"{_DATASETS} is not a list of names")
    return tuple(map(_c_string, value))


def _c_string(text: bytes) -> bytes:
    """As far as llama.cpp reads it."""
    return text.partition(b"\0")[0]


def _tensor_info(reader: _Reader) -> tuple[str, tuple[int, int, int]]:
    """A tensor's name, and its number of elements, type and offset."""
    name = _gguf_name(reader, "a tensor's name")
    (dimensions,) = reader.numbers("I", name)
    if dimensions > 4:
        raise DamagedFileError(f"{name} has {dimensions} dimensions")
    *sizes, kind, offset = reader.numbers(f"{dimensions}QIQ", name)
    return name, (prod(sizes), kind, offset)


def _gguf_entries(reader: _Reader, infos: Mapping[str, tuple[int, int, int]]) -> dict[str, Floats]:
    names = {
        name.removesuffix(suffix) for name in infos for suffix in (_SUMS, _COUNTS) if name.endswith(suffix)
    }
    parts = [name + suffix for name in sorted(names) for suffix in (_SUMS, _COUNTS)]
    absent = next((part for part in parts if part not in infos), None)
    if absent is not None:
        raise DamagedFileError(f"there is no {absent}")
    # tensors that overlap could make a small file large
    reader.check_room(sum(infos[part][0] for part in parts) * 4, "the data")
    start = reader.position

    def floats(part: str) -> Floats:
        count, kind, offset = infos[part]
        if kind != _F32:
            raise DamagedFileError(f"{part} is not F32")
        if not count:
            raise DamagedFileError(f"{part} is empty")
        reader.seek(start)
        reader.check_room(offset, f"what stands before {part}")
        reader.seek(start + offset)
        return reader.floats(count, part)

    return {name: _means(name, floats(name + _SUMS), floats(name + _COUNTS)) for name in sorted(names)}


def _means(name: str, sums: Floats, counts: Floats) -> Floats:
    """Sums by counts, expert by expert; an expert that no token reached gets ones (``load_imatrix``)."""
    if sums.size % counts.size:
        raise DamagedFileError(f"{name} has {sums.size} sums and {counts.size} counts")
    if not np.isfinite(counts).all():
        raise DamagedFileError(f"{name}{_COUNTS} holds NaN or infinity")
    whole = np.floor(counts.astype(np.float64) + 0.5).astype(np.float32)[:, None]
    means = np.ones((counts.size, sums.size // counts.size), dtype=np.float32)
    np.divide(sums.reshape(means.shape), whole, out=means, where=whole > 0)
    return means.reshape(-1)


# --- legacy -------------------------------------------------------------------


def _read_legacy(reader: _Reader) -> Contents:
    (count,) = reader.numbers("i", "the number of entries")
    if count < 1:
        raise DamagedFileError(f"it says that it has {count} entries")
    entries: dict[str, Floats] = {}
    for index in range(1, count + 1):
        (length,) = reader.numbers("i", f"the name of entry {index}")
        name = reader.name(length, f"the name of entry {index}")
        if name in entries:
            raise DamagedFileError(f"there are two entries of the name {name}")
        calls, values = reader.numbers("ii", name)
        if values < 1:
            raise DamagedFileError(f"{name} has {values} values")
        sums = reader.floats(values, name)
        entries[name] = sums / np.float32(calls) if calls > 0 else sums
    chunks, datasets = _legacy_origin(reader)
    return Contents(entries, datasets, chunks)


def _legacy_origin(reader: _Reader) -> tuple[int, tuple[bytes, ...]]:
    if not reader.left:
        return 0, ()
    (chunks,) = reader.numbers("i", "the number of chunks")
    chunks = max(chunks, 0)
    if not reader.left:
        return chunks, ()
    (length,) = reader.numbers("i", "the dataset's name")
    dataset = reader.take(max(length, 0), "the dataset's name")
    if reader.left:
        raise DamagedFileError(f"{reader.left:,} bytes stand after its end")
    return chunks, (_c_string(dataset),) if dataset else ()
