"""The checks that read every weight (``--deep``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ggufpack.checkpoint import TensorInfo, TensorTable
from ggufpack.checkpoint.wording import some
from ggufpack.doctor.examination import Log
from ggufpack.doctor.findings import make_finding
from ggufpack.gguf_header import GgufHeader, GgufTensor
from ggufpack.quantize.kernels import load_kernels
from ggufpack.quantize.types import TensorType
from ggufpack.spec import Progress, Stage

_CHUNK_WEIGHTS = 1 << 22
_F16_MAX = 65504.0
_STORED: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "F64": np.float64}


def check_gguf_weights(log: Log, header: GgufHeader) -> None:
    """NaN and infinity in plain tensors and in the scales of quantised blocks.

    The rule is llama.cpp's own (``ggml_validate_row_data``, ggml-quants.c): what does not pass decodes
    to NaN, and llama.cpp's quantiser refuses it.
    """
    kernels = load_kernels()
    bad: list[str] = []
    unknown: set[str] = set()
    whole = [tensor for tensor in header.tensors if tensor.offset + tensor.nbytes <= header.size]
    for number, tensor in enumerate(whole):
        log.on_event(Progress(Stage.CHECKPOINT, number, len(whole), "tensors", tensor.name))
        try:
            kind = TensorType(tensor.type_number)
        except ValueError:
            unknown.add(tensor.type_name or f"type {tensor.type_number}")
            continue
        if not all(kernels.is_valid(chunk, kind) for chunk in _chunks(header.path, tensor, kind)):
            bad.append(tensor.name)
    if bad:
        log.add(
            [
                make_finding(
                    "GP269",
                    f"{header.path}: NaN or infinity in {len(bad)} of {len(header.tensors)} tensors:"
                    f" {some(bad)}.",
                    path=header.path,
                    key=bad[0],
                    action="Convert the checkpoint again; if it has them too, training diverged.",
                )
            ]
        )
    if unknown:
        log.skip("GGUF weights", f"tensors of the types {', '.join(sorted(unknown))} are not read here")
    if len(whole) < len(header.tensors):
        log.skip("GGUF weights", f"{len(header.tensors) - len(whole)} tensors are cut off")


def _chunks(path: Path, tensor: GgufTensor, kind: TensorType) -> Iterator[npt.NDArray[np.uint8]]:
    if not tensor.nbytes:
        return
    step = kind.size(_CHUNK_WEIGHTS)
    data = np.memmap(path, np.uint8, "r", tensor.offset, (tensor.nbytes,))
    for begin in range(0, tensor.nbytes, step):
        yield np.ascontiguousarray(data[begin : begin + step])


def check_checkpoint_weights(log: Log, tensors: TensorTable) -> None:
    """NaN, infinity, and values beyond F16's range, in every floating-point tensor."""
    bad: list[TensorInfo] = []
    large: list[tuple[TensorInfo, float]] = []
    unread: set[str] = set()
    for number, tensor in enumerate(tensors.values()):
        log.on_event(Progress(Stage.CHECKPOINT, number, len(tensors), "tensors", tensor.name))
        if tensor.dtype not in _STORED:
            if tensor.dtype[0] == "F":
                unread.add(tensor.dtype)
            continue
        largest = _largest(tensor)
        if not np.isfinite(largest):
            bad.append(tensor)
        elif largest > _F16_MAX:
            large.append((tensor, largest))
    if bad:
        log.add(
            [
                make_finding(
                    "GP269",
                    f"NaN or infinity in {len(bad)} of {len(tensors)} tensors:"
                    f" {some([tensor.name for tensor in bad])}.",
                    path=bad[0].file,
                    key=bad[0].name,
                    action="Take an earlier checkpoint: training diverged, or the file was damaged.",
                )
            ]
        )
    if large:
        tensor, value = max(large, key=lambda pair: pair[1])
        log.add(
            [
                make_finding(
                    "GP261",
                    f"{len(large)} tensors hold values that F16 cannot: {tensor.name} reaches"
                    f" {value:,.0f}, and F16"
                    f" ends at {_F16_MAX:,.0f}.",
                    path=tensor.file,
                    key=tensor.name,
                    action="Choose a type other than F16 with -q, such as BF16 or Q8_0.",
                )
            ]
        )
    if unread:
        log.skip("weights", f"tensors of the dtypes {', '.join(sorted(unread))} are not read here")


def _largest(tensor: TensorInfo) -> float:
    """The largest magnitude; NaN when there is one."""
    kind = _STORED[tensor.dtype]
    if not tensor.elements:
        return 0.0
    data = np.memmap(tensor.file, kind, "r", tensor.begin, (tensor.elements,))
    largest = 0.0
    for begin in range(0, tensor.elements, _CHUNK_WEIGHTS):
        part = np.asarray(data[begin : begin + _CHUNK_WEIGHTS])
        if tensor.dtype == "BF16":
            part = (part.astype(np.uint32) << 16).view(np.float32)
        value = float(np.abs(part).max())
        if not np.isfinite(value):
            return value
        largest = max(largest, value)
    return largest
