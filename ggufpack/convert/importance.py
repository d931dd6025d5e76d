"""Worker side: encoding with an importance matrix, as llama.cpp's quantiser does.

Source: src/llama-quant.cpp, ``llama_model_quantize_impl`` and ``llama_tensor_quantize_impl``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ggufpack.convert.sources import TensorSource
from ggufpack.convert.values import F16_MAX
from ggufpack.errors import ImportanceMatrixError
from ggufpack.quantize.imatrix import ImportanceMatrix
from ggufpack.quantize.imatrix_files import Floats
from ggufpack.quantize.kernels import Encoded, Kernels
from ggufpack.quantize.types import TensorType


def importance_of(
    imatrix: ImportanceMatrix | None,
    sources: Sequence[TensorSource],
    types: Sequence[Mapping[str, TensorType]],
) -> dict[str, Floats]:
    """Tensor name to importance, float32 (experts, columns), of the tensors that have any.

    A tensor that keeps its stored type in every output is not looked up: its size may be any.

    Raises:
        ImportanceMatrixError: an entry has the wrong size, or none is of this model.
    """
    if imatrix is None:
        return {}
    imatrix.check_model(source.name for source in sources)
    found = {}
    for source in sources:
        if source.encoded or all(chosen[source.name] == source.stored_type for chosen in types):
            continue
        values = imatrix.for_tensor(source.name, source.shape)
        if values is not None:
            found[source.name] = values
    return found


def encode_with_importance(
    kernels: Kernels,
    weights: npt.NDArray[Any],
    stored: TensorType,
    outputs: Sequence[tuple[TensorType, Encoded]],
    *,
    middle: TensorType,
    importance: Floats,
    rows_per_expert: int,
    first_row: int,
    name: str,
) -> float:
    """``Kernels.encode`` for rows of several experts, each with its own importance.

    Args:
        kernels: the encoders.
        weights, stored, outputs, middle: see there; ``outputs`` are exactly as long as the result.
        importance: (experts, columns).
        rows_per_expert: of the tensor.
        first_row: where ``weights`` begins in the tensor, all experts counted.
        name: of the tensor.

    Raises:
        ImportanceMatrixError: a block of ordinary weights became NaN: the importance overflows.
    """
    columns = importance.shape[-1]
    flat = weights.reshape(-1)
    rows, row, largest = flat.size // columns, 0, 0.0
    while row < rows:
        expert, inside = divmod(first_row + row, rows_per_expert)
        end = min(rows, row + rows_per_expert - inside)
        start, stop = row * columns, end * columns
        parts = [(kind, out[kind.size(start) : kind.size(stop)]) for kind, out in outputs]
        part = flat[start:stop]
        found = kernels.encode(part, stored, columns, parts, middle=middle, importance=importance[expert])
        if found <= F16_MAX:  # what is beyond is the weights' own: values.check_encoded
            _check_blocks(kernels, parts, name)
        largest, row = float(np.maximum(largest, found)), end  # NaN stays NaN
    return largest


def _check_blocks(kernels: Kernels, parts: Sequence[tuple[TensorType, Encoded]], name: str) -> None:
    for kind, encoded in parts:
        if not kind.is_float and not kernels.is_valid(encoded, kind):
            raise ImportanceMatrixError(
                f"{name}: its entry in the importance matrix is so large that {kind.name} blocks become NaN.",
                action="Make the matrix again with llama-imatrix, or build without --imatrix.",
                key=name,
            )
