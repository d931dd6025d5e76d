"""Worker side: the header of a GGUF file and where each tensor's data goes.

The result equals, byte for byte, what llama.cpp's quantiser writes for the same tensors
(src/llama-quant.cpp; ggml/src/gguf.cpp): ``general.quantization_version`` and
``general.file_type`` are set anew and so come last, tensors stand in ``weight_name_comparer``
order, data is aligned to 32 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gguf
from gguf.gguf_writer import GGUFValue

from ggufpack.convert.sources import TensorSource
from ggufpack.quantize.imatrix import ImportanceMatrix
from ggufpack.quantize.rules import ModelTraits
from ggufpack.quantize.types import FILE_TYPES, TensorType

ALIGNMENT = 32
_QType = gguf.GGMLQuantizationType
_VersionKey, _FileTypeKey = "general.quantization_version", "general.file_type"
Pack = Callable[..., bytes]


@dataclass(frozen=True)
class PackedValue:
    """A key's value as it stands in a file, its type first."""

    packed: bytes


@dataclass(frozen=True)
class Placement:
    """A tensor's type and the offset of its first byte in the file."""

    offset: int
    tensor_type: Any


@dataclass(frozen=True)
class FileLayout:
    """A file before its data: ``size`` bytes in all, ``header`` first."""

    file_type: str
    header: bytes
    size: int
    placements: Mapping[str, Placement]


def traits_of(architecture: str, pairs: Mapping[str, Any]) -> ModelTraits:
    """What the type rules ask of a model, from the converter's key-value pairs."""

    def number(key: str, default: int = 0) -> int:
        value = getattr(pairs.get(f"{architecture}.{key}"), "value", default)
        if isinstance(value, list | tuple):  # per layer: the rules read the first
            value = value[0] if value else default
        return int(value)

    heads = number("attention.head_count")
    return ModelTraits(
        architecture=architecture,
        block_count=number("block_count"),
        prediction_layers=number("nextn_predict_layers"),
        expert_count=number("expert_count"),
        head_count=heads,
        head_count_kv=number("attention.head_count_kv", heads),
    )


def plan_file(
    file_type: str,
    sources: Sequence[TensorSource],
    types: Mapping[str, TensorType],
    pairs: Mapping[str, GGUFValue | PackedValue],
    pack: Pack,
    imatrix: ImportanceMatrix | None = None,
    *,
    as_given: bool = False,
) -> FileLayout:
    """Lay out one file.

    Args:
        file_type: canonical name (``"Q4_K_M"``).
        sources: all tensors, in file order.
        types: of each tensor that is not encoded already.
        pairs: the converter's key-value pairs, in its order.
        pack: ``GGUFWriter._pack_val``: the value encoding of the vendored gguf-py.
        imatrix: the importance matrix that the header names.
        as_given: as the converter's own writer lays it out, and not the quantiser.
    """
    final = dict(pairs) if as_given else _as_quantiser(file_type, pairs, imatrix)
    header = bytearray(struct.pack("<IIQQ", gguf.GGUF_MAGIC, gguf.GGUF_VERSION, len(sources), len(final)))
    for key, value in final.items():
        header += pack(key, gguf.GGUFValueType.STRING, add_vtype=False)
        if isinstance(value, PackedValue):
            header += value.packed
        else:
            header += pack(value.value, value.type, add_vtype=True, sub_type=value.sub_type)

    relative = 0
    offsets: dict[str, tuple[int, Any]] = {}
    for source in sources:
        tensor_type = source.stored_type if source.encoded else _QType(int(types[source.name]))
        header += pack(source.name, gguf.GGUFValueType.STRING, add_vtype=False)
        sizes = tuple(reversed(source.shape))[: len(source.shape) if as_given else source.dimensions]
        header += struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, int(tensor_type), relative)
        offsets[source.name] = (relative, tensor_type)
        weights, size = gguf.GGML_QUANT_SIZES[tensor_type]
        relative += _aligned(source.weights // weights * size)

    start = _aligned(len(header))
    placements = {name: Placement(start + offset, kind) for name, (offset, kind) in offsets.items()}
    return FileLayout(file_type, bytes(header), start + relative, placements)


def _as_quantiser(
    file_type: str, pairs: Mapping[str, GGUFValue | PackedValue], imatrix: ImportanceMatrix | None
) -> dict[str, GGUFValue | PackedValue]:
    final = {key: value for key, value in pairs.items() if key not in (_VersionKey, _FileTypeKey)}
    number = gguf.GGUFValueType.UINT32
    final[_VersionKey] = GGUFValue(gguf.GGML_QUANT_VERSION, number)
    final[_FileTypeKey] = GGUFValue(FILE_TYPES[file_type].number, number)
    for added, content in ({} if imatrix is None else imatrix.header_values()).items():
        final[added] = GGUFValue(content, number if isinstance(content, int) else gguf.GGUFValueType.STRING)
    return final


def _aligned(size: int) -> int:
    return (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
