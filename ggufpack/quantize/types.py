"""The file types that ``-q`` takes and the tensor types a GGUF holds.

Numbers are ggml's ``ggml_type`` and llama.cpp's ``llama_ftype`` (ggml.h, llama.h); block sizes are
ggml's ``type_traits`` (ggml.c). Names are llama.cpp's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from ggufpack.errors import UsageError


class TensorType(IntEnum):
    """A tensor's storage type, by its number in the file (``ggml_type``)."""

    F32 = 0
    F16 = 1
    Q4_0 = 2
    Q4_1 = 3
    Q5_0 = 6
    Q5_1 = 7
    Q8_0 = 8
    Q2_K = 10
    Q3_K = 11
    Q4_K = 12
    Q5_K = 13
    Q6_K = 14
    IQ4_NL = 20
    IQ4_XS = 23
    BF16 = 30

    @property
    def block(self) -> Block:
        """The unit of storage: rows are a whole number of blocks."""
        return _BLOCKS[self]

    @property
    def is_float(self) -> bool:
        """Whether it is F32, F16 or BF16."""
        return self in FLOAT_TYPES

    def size(self, weights: int) -> int:
        """Bytes that ``weights`` weights take; ``weights`` is a whole number of blocks."""
        return weights // self.block.weights * self.block.bytes


class Block(NamedTuple):
    """Weights in a block, and the bytes it takes."""

    weights: int
    bytes: int


_BLOCKS = {
    TensorType.F32: Block(1, 4),
    TensorType.F16: Block(1, 2),
    TensorType.BF16: Block(1, 2),
    TensorType.Q4_0: Block(32, 18),
    TensorType.Q4_1: Block(32, 20),
    TensorType.Q5_0: Block(32, 22),
    TensorType.Q5_1: Block(32, 24),
    TensorType.Q8_0: Block(32, 34),
    TensorType.IQ4_NL: Block(32, 18),
    TensorType.Q2_K: Block(256, 84),
    TensorType.Q3_K: Block(256, 110),
    TensorType.Q4_K: Block(256, 144),
    TensorType.Q5_K: Block(256, 176),
    TensorType.Q6_K: Block(256, 210),
    TensorType.IQ4_XS: Block(256, 136),
}
FLOAT_TYPES = frozenset({TensorType.F32, TensorType.F16, TensorType.BF16})


@dataclass(frozen=True)
class FileType:
    """A quantisation scheme for a whole file.

    Attributes:
        name: llama.cpp's name, upper case (``"Q4_K_M"``).
        number: ``general.file_type`` (``llama_ftype``).
        base: the type a tensor gets where no rule says otherwise.
    """

    name: str
    number: int
    base: TensorType


FILE_TYPES = {
    file_type.name: file_type
    for file_type in (
        FileType("F32", 0, TensorType.F32),
        FileType("F16", 1, TensorType.F16),
        FileType("BF16", 32, TensorType.BF16),
        FileType("Q8_0", 7, TensorType.Q8_0),
        FileType("Q4_0", 2, TensorType.Q4_0),
        FileType("Q4_1", 3, TensorType.Q4_1),
        FileType("Q5_0", 8, TensorType.Q5_0),
        FileType("Q5_1", 9, TensorType.Q5_1),
        FileType("Q2_K", 10, TensorType.Q2_K),
        FileType("Q3_K_S", 11, TensorType.Q3_K),
        FileType("Q3_K_M", 12, TensorType.Q3_K),
        FileType("Q3_K_L", 13, TensorType.Q3_K),
        FileType("Q4_K_S", 14, TensorType.Q4_K),
        FileType("Q4_K_M", 15, TensorType.Q4_K),
        FileType("Q5_K_S", 16, TensorType.Q5_K),
        FileType("Q5_K_M", 17, TensorType.Q5_K),
        FileType("Q6_K", 18, TensorType.Q6_K),
        FileType("IQ4_NL", 25, TensorType.IQ4_NL),
        FileType("IQ4_XS", 30, TensorType.IQ4_XS),
    )
}
# file types of llama.cpp's, not offered here, that it makes with an importance matrix only
# (``tensor_requires_imatrix``)
NEED_IMATRIX = frozenset(
    ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "Q2_K_S")
)
_SHORT_NAMES = {"Q4": "Q4_K_M", "Q8": "Q8_0", "Q5": "Q5_K_M", "Q6": "Q6_K"}


def parse_file_types(text: str) -> tuple[str, ...]:
    """Canonical names of a comma-separated ``-q`` value, in order, each once.

    Raises:
        UsageError: an unknown name, or none at all.
    """
    names: list[str] = []
    for word in text.split(","):
        upper = word.strip().upper()
        name = _SHORT_NAMES.get(upper, upper)
        if name not in FILE_TYPES:
            known = upper in NEED_IMATRIX
            what = (
                "needs an importance matrix always, and is not offered"
                if known
                else "is no quantisation type"
            )
            raise UsageError(
                f"-q {text}: {word.strip()!r} {what}.",
                action=f"Use one or several of {', '.join(FILE_TYPES)}.",
                key="quantization",
            )
        if name not in names:
            names.append(name)
    return tuple(names)
