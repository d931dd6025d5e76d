"""Encodes rows of float32 weights as a tensor type, with ggml's reference kernels.

The kernels are those of PyPI's ``libggml-python``: ``ggml_quantize_chunk`` (ggml.c), which takes
every type of ``TensorType``. ctypes releases the GIL while they run, so a thread pool scales.
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ggufpack.errors import ConversionError
from ggufpack.quantize.types import TensorType

Weights = npt.NDArray[np.float32]
Encoded = npt.NDArray[np.uint8]


class Kernels:
    """ggml's encoders. Stateless after construction: safe from many threads."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._quantize = library.ggml_quantize_chunk
        self._quantize.restype = ctypes.c_size_t
        self._quantize.argtypes = [
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_int64,
            ctypes.c_void_p,
        ]
        self._validate = library.ggml_validate_row_data
        self._validate.restype = ctypes.c_bool
        self._validate.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]

    def encode(self, weights: Weights, columns: int, tensor_type: TensorType, out: Encoded) -> int:
        """Encode whole rows.

        Args:
            weights: float32, contiguous, any shape; its size is a multiple of ``columns``.
            columns: weights in a row, a multiple of the type's block.
            tensor_type: what to write.
            out: uint8, contiguous, at least as large as the result.

        Returns:
            bytes written to the front of ``out``.
        """
        rows = weights.size // columns
        size: int = self._quantize(
            int(tensor_type), weights.ctypes.data, out.ctypes.data, 0, rows, columns, None
        )
        return size

    def is_valid(self, encoded: Encoded, tensor_type: TensorType) -> bool:
        """Whether the blocks hold only finite scales (``ggml_validate_row_data``, ggml-quants.c).

        llama.cpp's own quantiser refuses what does not pass: such a block decodes to NaN.
        """
        return bool(self._validate(int(tensor_type), encoded.ctypes.data, encoded.size))


@cache
def reference_kernels() -> Kernels:
    """The kernels of the installed ``libggml-python``.

    Raises:
        ConversionError: the package is missing or has no library for this platform.
    """
    spec = find_spec("libggml")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    names = ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll")
    found = [path for folder in folders for name in names for path in sorted(folder.glob(f"*/{name}"))]
    if not found:
        raise ConversionError(
            "The quantisation kernels are missing: no libggml-base library is installed.",
            action="Run `pip install libggml-python`.",
        )
    return Kernels(ctypes.CDLL(str(found[0])))
