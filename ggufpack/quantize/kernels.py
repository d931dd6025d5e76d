"""Encodes rows of weights as tensor types, bit for bit as ggml's reference kernels do.

The C kernels (``native/``) are an optional extension: where it was not built, PyPI's
``libggml-python`` does the work (``ggml_quantize_chunk``, ggml.c), as it does for the types that have no
kernel. Both are called through ctypes, which releases the GIL: a thread pool scales.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ggufpack.errors import ConversionError
from ggufpack.quantize.types import TensorType

Weights = npt.NDArray[np.float32]
Encoded = npt.NDArray[np.uint8]

CHOICE = "GGUFPACK_KERNELS"
REFERENCE = "reference"
# raise it when the bytes that any kernel writes change: what was kept of them is made again
BYTES_VERSION = 1

_STORED = {TensorType.F32: np.float32, TensorType.F16: np.float16, TensorType.BF16: np.uint16}


class Kernels(Protocol):
    """Encoders. Stateless: safe from many threads.

    Attributes:
        name: ``"avx512"``, ``"avx2"``, ``"generic"`` or ``"reference"``. The bytes are the same.
    """

    name: str

    def encode(
        self,
        weights: npt.NDArray[Any],
        source: TensorType,
        columns: int,
        outputs: Sequence[tuple[TensorType, Encoded]],
        *,
        middle: TensorType = TensorType.F32,
        importance: npt.NDArray[np.float32] | None = None,
    ) -> float:
        """Encode whole rows for several outputs in one read.

        The bytes of a quantised output are undefined where a weight is NaN or infinite.

        Args:
            weights: contiguous, any shape; its memory holds ``source`` values (BF16 as uint16, F16 as
                float16 or uint16, F32 as float32); its size is a multiple of ``columns``.
            source: F32, F16 or BF16.
            columns: weights in a row, a multiple of the outputs' blocks.
            outputs: types, and uint8 buffers at least ``type.size(weights.size)`` long.
            middle: F32, F16 or BF16, to which the weights are rounded before they are encoded.
            importance: ``columns`` weights of an importance matrix for these rows (the ``imatrix`` of
                ``ggml_quantize_chunk``).

        Returns:
            the largest magnitude after rounding to ``middle``; NaN when any weight is NaN, infinity
            when one is infinite.

        Raises:
            ValueError: an array is not contiguous, or an output is too small.
        """
        ...

    def is_valid(self, encoded: Encoded, tensor_type: TensorType) -> bool:
        """Whether the blocks hold only finite scales (``ggml_validate_row_data``, ggml-quants.c).

        llama.cpp's own quantiser refuses what does not pass: such a block decodes to NaN.
        """
        ...


class ReferenceKernels:
    """ggml's own encoders, from the installed ``libggml-python``."""

    name = REFERENCE

    def __init__(self, library: ctypes.CDLL) -> None:
        self.quantize_chunk = library.ggml_quantize_chunk
        self.quantize_chunk.restype = ctypes.c_size_t
        self.quantize_chunk.argtypes = [
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

    def encode(
        self,
        weights: npt.NDArray[Any],
        source: TensorType,
        columns: int,
        outputs: Sequence[tuple[TensorType, Encoded]],
        *,
        middle: TensorType = TensorType.F32,
        importance: npt.NDArray[np.float32] | None = None,
    ) -> float:
        """See ``Kernels.encode``."""
        _check_arrays(weights, outputs)
        wide = _widened(weights.reshape(-1), source)
        if middle not in (TensorType.F32, source):
            rounded = np.empty(wide.size, _STORED[middle])
            self._quantize(middle, wide, wide.size, rounded.view(np.uint8), None)
            wide = _widened(rounded, middle)
        for tensor_type, out in outputs:
            self._quantize(tensor_type, wide, columns, out, importance)
        return float(np.abs(wide).max(initial=0))

    def is_valid(self, encoded: Encoded, tensor_type: TensorType) -> bool:
        """See ``Kernels.is_valid``."""
        return bool(self._validate(int(tensor_type), encoded.ctypes.data, encoded.size))

    def _quantize(
        self,
        tensor_type: TensorType,
        weights: Weights,
        columns: int,
        out: Encoded,
        importance: npt.NDArray[np.float32] | None,
    ) -> None:
        if not weights.size:
            return
        self.quantize_chunk(
            int(tensor_type),
            weights.ctypes.data,
            out.ctypes.data,
            0,
            weights.size // columns,
            columns,
            None if importance is None else importance.ctypes.data,
        )


class NativeKernels:
    """The C kernels for one instruction set; what they lack goes to the reference."""

    def __init__(self, name: str, library: ctypes.CDLL, reference: ReferenceKernels) -> None:
        self.name = name
        self._reference = reference
        self._quantize_chunk = ctypes.cast(reference.quantize_chunk, ctypes.c_void_p)
        self._encode = getattr(library, f"ggufpack_encode_{name}")
        self._encode.restype = ctypes.c_float
        self._encode.argtypes = [
            ctypes.c_void_p,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_int64,
            ctypes.c_int,
            ctypes.POINTER(ctypes.c_int),
            ctypes.POINTER(ctypes.c_void_p),
            ctypes.c_void_p,
        ]

    def encode(
        self,
        weights: npt.NDArray[Any],
        source: TensorType,
        columns: int,
        outputs: Sequence[tuple[TensorType, Encoded]],
        *,
        middle: TensorType = TensorType.F32,
        importance: npt.NDArray[np.float32] | None = None,
    ) -> float:
        """See ``Kernels.encode``."""
        if importance is not None:
            return self._reference.encode(
                weights, source, columns, outputs, middle=middle, importance=importance
            )
        _check_arrays(weights, outputs)
        largest: float = self._encode(
            weights.ctypes.data,
            int(source),
            int(middle),
            weights.size,
            len(outputs),
            (ctypes.c_int * len(outputs))(*(int(tensor_type) for tensor_type, _ in outputs)),
            (ctypes.c_void_p * len(outputs))(*(out.ctypes.data for _, out in outputs)),
            self._quantize_chunk,
        )
        return largest

    def is_valid(self, encoded: Encoded, tensor_type: TensorType) -> bool:
        """See ``Kernels.is_valid``."""
        return self._reference.is_valid(encoded, tensor_type)


def _check_arrays(weights: npt.NDArray[Any], outputs: Sequence[tuple[TensorType, Encoded]]) -> None:
    """Refuse what C code would read or write past its end."""
    if not weights.flags.c_contiguous:
        raise ValueError("the weights are not contiguous")
    for tensor_type, out in outputs:
        size = tensor_type.size(weights.size)
        if not out.flags.c_contiguous or out.nbytes < size:
            raise ValueError(f"{tensor_type.name} needs {size} contiguous bytes, not {out.nbytes}")


def available_kernels() -> tuple[str, ...]:
    """Names of the kernels that this machine can run, the fastest first."""
    library = _native_library()
    if library is None:
        return (REFERENCE,)
    names: bytes = library.ggufpack_variants()
    return (*names.decode().split(","), REFERENCE)


def load_kernels(name: str | None = None) -> Kernels:
    """The kernels of that name, or the fastest; the same object every time.

    Args:
        name: one of ``available_kernels()``. Without it the environment variable
            ``GGUFPACK_KERNELS`` decides, where it is set.

    Raises:
        ConversionError: no such kernels here, or ``libggml-python`` is missing or has no library for
            this platform.
    """
    available = available_kernels()
    chosen = name or os.environ.get(CHOICE) or available[0]
    if chosen not in available:
        raise ConversionError(
            f"There are no quantisation kernels named {chosen!r} on this machine.",
            action=f"Use one of {', '.join(available)}" + ("." if name else f", or unset {CHOICE}."),
        )
    return _load(chosen)


@cache
def _load(name: str) -> Kernels:
    if name == REFERENCE:
        return _reference()
    library = _native_library()
    assert library is not None  # noqa: S101 - available_kernels() named it
    return NativeKernels(name, library, _reference())


@cache
def _reference() -> ReferenceKernels:
    spec = find_spec("libggml")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    names = ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll")
    found = [path for folder in folders for name in names for path in sorted(folder.glob(f"*/{name}"))]
    if not found:
        raise ConversionError(
            "The quantisation kernels are missing: no libggml-base library is installed.",
            action="Run `pip install libggml-python`.",
        )
    return ReferenceKernels(ctypes.CDLL(str(found[0])))


@cache
def _native_library() -> ctypes.CDLL | None:
    spec = find_spec("ggufpack.quantize._native")
    if spec is None or spec.origin is None:
        return None
    try:
        library = ctypes.CDLL(spec.origin)
    except OSError:  # built for another system: as good as not built
        return None
    library.ggufpack_variants.restype = ctypes.c_char_p
    return library


def _widened(values: npt.NDArray[Any], source: TensorType) -> Weights:
    stored = values.view(_STORED[source])
    if source is TensorType.BF16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(stored, dtype=np.float32)
