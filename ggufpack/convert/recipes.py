"""Worker side: what the converter's lazy recipe of a tensor does to the stored values.

Most recipes only move data (permute rows, transpose, split, stack experts). Such a tensor is
streamed from the mapped file in chunks of its source dtype. Any other recipe is evaluated as the
converter would, one tensor at a time: an operation that is not known here costs memory and speed,
never correctness. Written against llama.cpp b11434: gguf-py/gguf/lazy.py, conversion/base.py
(``LazyTorchTensor``, ``prepare_tensors``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import gguf
import torch
from torch.overrides import TorchFunctionMode

from ggufpack.convert.mapped import MappedParts
from ggufpack.convert.size import CHUNK_WEIGHTS

FLOAT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)

_MOVES = frozenset(
    {
        *("swapaxes", "swapdims", "transpose", "permute", "movedim", "t", "squeeze", "unsqueeze"),
        *("expand", "split", "chunk", "narrow", "select", "unbind", "flatten", "unflatten"),
        *("detach", "__getitem__"),
    }
)
_QUESTIONS = frozenset(["size", "dim", "numel", "is_contiguous", "stride", "__len__"])
_JOINS = frozenset(["stack", "cat", "concat", "concatenate"])
_VALUE_PROPERTIES = frozenset({"real", "imag", "grad"})


class NotPlainError(Exception):
    """The recipe does more than move data."""


class Pieces:
    """Row-major concatenation of views, where one tensor would have to be copied together.

    It allows what keeps row-major order: reshapes, and the casts to float32 that are postponed.
    """

    def __init__(self, views: Sequence[torch.Tensor], shape: Sequence[int]) -> None:
        self.views = list(views)
        self.shape = torch.Size(shape)
        self.dtype = views[0].dtype

    def reshape(self, *dims: Any) -> Pieces:
        """The same pieces under another shape; one dimension may be -1."""
        sizes = _dimensions(dims)
        known = -prod(sizes)
        return Pieces(self.views, [d if d >= 0 else prod(self.shape) // known for d in sizes])

    view = reshape

    def reshape_as(self, other: torch.Tensor) -> Pieces:
        """The same pieces in the shape of ``other``."""
        return Pieces(self.views, other.shape)

    def to(self, dtype: torch.dtype = torch.float32) -> Pieces:
        """Itself: a cast to float32 is exact and can wait for the chunk."""
        if dtype != torch.float32:
            raise NotPlainError(f"cast to {dtype}")
        return self

    contiguous = to

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # reached where PlainMode is not active
        raise NotPlainError(f"{getattr(func, '__name__', func)} on pieces")


class PlainMode(TorchFunctionMode):
    """Runs a recipe on views of the mapped file, in the source dtype.

    Raises:
        NotPlainError: at the first operation that is not pure data movement.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "?")
        if name in _JOINS:
            return _join(name, list(args[0]), kwargs.get("dim", args[1] if len(args) > 1 else 0))
        if any(isinstance(argument, Pieces) for argument in args):
            raise NotPlainError(f"{name} on pieces")
        if name in ("float", "contiguous", "clone"):
            return _postponed_cast(args[0], torch.float32)
        if name in ("to", "type"):
            return _postponed_cast(args[0], args[1] if len(args) > 1 else kwargs.get("dtype"))
        if name in ("reshape", "view", "reshape_as"):
            return _reshaped(name, args, kwargs)
        if name in _MOVES or name in _QUESTIONS:
            return func(*args, **kwargs)
        if name == "__get__" and getattr(func.__self__, "__name__", "") not in _VALUE_PROPERTIES:
            return func(*args, **kwargs)
        raise NotPlainError(name)


def _dimensions(dims: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(dims[0]) if len(dims) == 1 and isinstance(dims[0], tuple | list) else dims


def _join(name: str, parts: list[Any], dim: int) -> Pieces:
    if dim != 0 or len({part.dtype for part in parts}) != 1:
        raise NotPlainError(f"{name} along dimension {dim}")
    shape = parts[0].shape
    joined = (len(parts), *shape) if name == "stack" else (sum(p.shape[0] for p in parts), *shape[1:])
    views = [view for part in parts for view in (part.views if isinstance(part, Pieces) else [part])]
    return Pieces(views, joined)


def _postponed_cast(tensor: torch.Tensor, dtype: Any) -> torch.Tensor:
    if dtype != torch.float32 or tensor.dtype not in FLOAT_DTYPES:
        raise NotPlainError(f"cast of {tensor.dtype} to {dtype}")
    return tensor


def _reshaped(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | Pieces:
    dims = tuple(args[1].shape) if name == "reshape_as" else _dimensions(args[1:] or tuple(kwargs.values()))
    if not all(isinstance(size, int) for size in dims):
        raise NotPlainError("view as another dtype")
    try:
        view: torch.Tensor = args[0].view(*dims)
    except RuntimeError:  # it would copy: leave that to the chunks
        return Pieces([args[0]], args[0].shape).reshape(dims)
    return view


def evaluate(node: Any, parts: MappedParts | None = None) -> Any:
    """Run a lazy node's recipe without keeping anything on the nodes.

    ``LazyBase.to_eager`` remembers every intermediate result, which would keep each tensor's map
    alive until the end; the memo here lives for one call.

    Args:
        node: a ``gguf.LazyBase``.
        parts: run under ``PlainMode``, on views of the source, and keep its maps there; ``None``
            evaluates everything, as the converter would.

    Raises:
        NotPlainError: with ``parts``, when the recipe computes something.
    """
    memo: dict[int, Any] = {}

    def run(current: Any) -> Any:
        if current._data is not None:
            return current._data
        if id(current) not in memo:
            children: list[Any] = []

            def resolve(child: Any) -> Any:
                children.append(child)
                return run(child)

            args = gguf.LazyBase._recurse_apply(current._args, resolve)
            if parts is not None and children:
                with PlainMode():
                    memo[id(current)] = current._func(*args, **current._kwargs)
            elif parts is not None and _reads_a_file(args):
                memo[id(current)] = current._func(parts.noted(args[0]), **current._kwargs)
            else:
                memo[id(current)] = current._func(*args, **current._kwargs)
        return memo[id(current)]

    try:
        return run(node)
    finally:
        memo.clear()  # `run` refers to itself: without this the cycle keeps every map


def _reads_a_file(args: Any) -> bool:
    """Whether these are a leaf's arguments (``LazyTorchTensor.from_local_tensor``)."""
    return len(args) == 1 and isinstance(args[0], gguf.utility.LocalTensor)


def row_chunks(view: torch.Tensor, columns: int) -> Iterator[torch.Tensor]:
    """Cut a view along its leading dimensions into views of whole rows.

    Args:
        view: any strides; its number of weights is a multiple of ``columns``.
        columns: weights in a row of the output tensor.

    Yields:
        views of about ``CHUNK_WEIGHTS`` weights, in row-major order.
    """
    if view.numel() <= CHUNK_WEIGHTS or view.dim() <= 1:
        yield view
        return
    unit = view[0].numel()
    if unit >= CHUNK_WEIGHTS and unit % columns == 0 and unit > columns:
        for index in range(view.shape[0]):
            yield from row_chunks(view[index], columns)
        return
    step = max(1, CHUNK_WEIGHTS // unit)
    while step * unit % columns:
        step += 1
    yield from (view[start : start + step] for start in range(0, view.shape[0], step))
