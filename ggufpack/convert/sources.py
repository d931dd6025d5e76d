"""Worker side: one tensor of the output file, as a stream of whole rows.

Written against llama.cpp b11434, conversion/base.py ``prepare_tensors``: what reaches the GGUF
writer is an encode node over a ``numpy()`` node over a lazy torch tensor, an array that was made
at once, or gguf-py's ``LazyChunkedTensor``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import gguf
import numpy as np
import torch
from conversion.base import LazyTorchTensor

from ggufpack.convert.mapped import MappedParts
from ggufpack.convert.recipes import FLOAT_DTYPES, NotPlainError, Pieces, evaluate, row_chunks
from ggufpack.errors import ConversionError

_QType = gguf.GGMLQuantizationType
FLOAT_OF_TYPE = {
    _QType.F32: torch.float32,
    _QType.F16: torch.float16,
    _QType.BF16: torch.bfloat16,
}
WITNESS_WEIGHTS = 1 << 22


class Rows(NamedTuple):
    """Whole rows of one tensor: a view of any strides, in the source dtype.

    ``parts`` are the mapped files it looks into: none when it was computed.
    """

    view: torch.Tensor
    parts: MappedParts


class TensorSource:
    """A tensor that the converter handed over.

    Attributes:
        name: final name in the file.
        shape: row-major (outermost first), as numpy has it.
        columns: weights in a row.
        dimensions: without outer ones (``ggml_n_dims``, gguf.cpp).
        stored_type: the type the converter chose; F32, F16 or BF16 unless it is ``encoded``.
        encoded: the converter made bytes that pass through as they are (MXFP4, I32 …).
    """

    def __init__(self, name: str, info: Any) -> None:
        self.name = name
        self.shape: tuple[int, ...] = tuple(info.shape)
        self.columns = self.shape[-1] if self.shape else 1
        self.dimensions = next((len(self.shape) - i for i, size in enumerate(self.shape) if size != 1), 1)
        self.stored_type = info.dtype
        self.encoded = info.dtype not in FLOAT_OF_TYPE
        self._tensor: Any = info.tensor

    @property
    def weights(self) -> int:
        """How many weights the tensor has."""
        return prod(self.shape)

    def release(self) -> None:
        """Let go of the recipe, and with it of the maps that it holds."""
        self._tensor = None

    def encoded_bytes(self) -> Any:
        """uint8 array of a tensor that passes through."""
        data = gguf.LazyNumpyTensor.to_eager(self._tensor)
        return np.ascontiguousarray(data).view(np.uint8).reshape(-1)

    def rows(self, witness: Witness) -> Iterator[Rows]:
        """The tensor in order, in chunks of whole rows."""
        done = 0
        for view, parts in self._views(witness):
            for chunk in row_chunks(view, self.columns):
                yield Rows(chunk, parts)
                done += chunk.numel()
        if done != self.weights:
            raise ConversionError(
                f"The converter promised {self.weights} weights for {self.name}, not {done}.", key=self.name
            )

    def _views(self, witness: Witness) -> Iterator[tuple[torch.Tensor, MappedParts]]:
        computed = MappedParts()
        if isinstance(self._tensor, gguf.LazyChunkedTensor):  # its chunks are callables: float32 rows
            for chunk in self._tensor._chunks:
                yield torch.from_numpy(chunk()), computed
        elif isinstance(self._tensor, np.ndarray):  # made at once; BF16 arrives as bytes
            array = torch.from_numpy(np.ascontiguousarray(self._tensor))
            yield (
                array.view(FLOAT_OF_TYPE[self.stored_type]) if array.dtype == torch.uint8 else array,
                computed,
            )
        else:
            node, parts = self._torch_node(), MappedParts()
            try:
                views = self._plain_views(node, parts)
            except NotPlainError:
                yield evaluate(node), computed
            else:
                witness.check(self, node, views)
                for view in views:
                    yield view, parts

    def _plain_views(self, node: Any, parts: MappedParts) -> list[torch.Tensor]:
        result = evaluate(node, parts)
        views = result.views if isinstance(result, Pieces) else [result]
        whole_rows = all(view.numel() % self.columns == 0 for view in views)
        if result.dtype not in FLOAT_DTYPES or tuple(result.shape) != self.shape or not whole_rows:
            raise NotPlainError("not whole rows of floats")
        return views

    def _torch_node(self) -> Any:
        node = self._tensor
        while not isinstance(node, LazyTorchTensor):
            children = [argument for argument in node._args if isinstance(argument, gguf.LazyBase)]
            if len(children) != 1 or len(node._args) > 2 or node._data is not None:
                raise ConversionError(
                    f"The vendored converter built {self.name} in a way that ggufpack does not know.",
                    action="Run `ggufpack vendor status`; if it is unchanged, please report this.",
                    key=self.name,
                )
            node = children[0]
        return node


class Witness:
    """Compares streamed values with the converter's own recipe, once for each kind of tensor.

    A kind is a name with its numbers left out. Tensors above ``WITNESS_WEIGHTS`` weights are not
    compared: the comparison holds two float32 copies.
    """

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def check(self, source: TensorSource, node: Any, views: list[torch.Tensor]) -> None:
        """Raises ConversionError when the views are not what the recipe gives."""
        kind = re.sub(r"\d+", "#", source.name)
        if kind in self._seen or source.weights > WITNESS_WEIGHTS:
            return
        self._seen.add(kind)
        streamed = torch.cat([view.reshape(-1).float() for view in views])
        expected = evaluate(node).reshape(-1).float()
        if not torch.equal(streamed.nan_to_num(nan=0.0), expected.nan_to_num(nan=0.0)):
            raise ConversionError(
                f"{source.name} read in chunks differs from what the converter makes of it.",
                action="Please report this with the architecture's name: nothing was written.",
                key=source.name,
            )
