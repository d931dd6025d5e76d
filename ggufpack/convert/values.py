"""Worker side: values that a file cannot carry as trained, found while they stream by."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch

from ggufpack.convert.findings import F16_RANGE, NOT_FINITE, SCALE_RANGE
from ggufpack.errors import TensorValueError
from ggufpack.quantize.kernels import Encoded, Kernels
from ggufpack.quantize.types import TensorType

F16_MAX = 65504.0
# Q6_K reaches furthest: an F16 scale, times a scale of 128, times 32
BLOCK_MAX = F16_MAX * 128 * 32


def check_source(
    name: str, largest: float, rows: torch.Tensor, stored: torch.dtype, allowed: Collection[str]
) -> None:
    """Refuse NaN and infinities.

    Args:
        name: the tensor.
        largest: the largest magnitude among ``rows`` as it was encoded; NaN where one is NaN.
        rows: what was encoded, to count in.
        stored: the dtype it was rounded to.
        allowed: finding ids that are accepted.

    Raises:
        TensorValueError: with finding ``NOT_FINITE``, unless that id is allowed.
    """
    if math.isfinite(largest) or NOT_FINITE in allowed:
        return
    bad = int((~torch.isfinite(rows.to(stored))).sum())
    raise TensorValueError(
        f"{name}: {bad} of the {rows.numel()} weights in one block of rows are NaN or infinite.",
        action="Take a checkpoint from before training diverged"
        f" (or pass --allow {NOT_FINITE} to write them as they are).",
        key=name,
        finding=NOT_FINITE,
    )


def check_encoded(
    name: str,
    encoded: Encoded,
    tensor_type: TensorType,
    largest: float,
    kernels: Kernels,
    allowed: Collection[str],
) -> None:
    """Refuse what became infinite in the output type.

    Args:
        name: the tensor.
        encoded: its blocks.
        tensor_type: their type.
        largest: the largest magnitude that was encoded.
        kernels: whose validation is asked.
        allowed: finding ids that are accepted.

    Raises:
        TensorValueError: F16 overflow (``F16_RANGE``) or a block scale that F16 cannot hold
            (``SCALE_RANGE``), unless allowed.
    """
    if tensor_type is TensorType.F16:
        if largest > F16_MAX and F16_RANGE not in allowed:
            raise TensorValueError(
                f"{name}: the value {largest:.6g} is outside the range of F16 (65504).",
                action=f"Choose BF16 or F32 (or pass --allow {F16_RANGE} to write infinities).",
                key=name,
                finding=F16_RANGE,
            )
    # scales are F16: they cannot overflow while the weights themselves fit. Far beyond, some kernels
    # overflow in between and write a block of zeros, which passes for valid
    elif (
        largest > F16_MAX
        and not tensor_type.is_float
        and SCALE_RANGE not in allowed
        and (largest > BLOCK_MAX or not kernels.is_valid(encoded, tensor_type))
    ):
        raise TensorValueError(
            f"{name}: the value {largest:.6g} gives a {tensor_type.name} block scale beyond F16's range.",
            action=f"Choose BF16 or F32 (or pass --allow {SCALE_RANGE} to write it all the same).",
            key=name,
            finding=SCALE_RANGE,
        )
