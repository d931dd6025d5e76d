"""Worker side: the mapped parts of the checkpoint that a tensor's views look into.

A mapped file counts as memory of the process as long as its pages are mapped. What was encoded is
given back to the kernel at once, so that a large tensor takes no more memory than a small one.
"""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import fields
from functools import cache
from typing import Any

import gguf
import torch

_MADV_POPULATE_READ = 22  # Linux 5.14; an older kernel refuses it, and nothing is lost


class MappedParts:
    """The parts of files that one tensor is read from; they stay mapped as long as this object lives.

    Only their addresses may be given back: elsewhere the kernel would replace values by zeros.
    """

    def __init__(self) -> None:
        self._parts: list[Any] = []

    def noted(self, tensor: Any) -> Any:
        """A ``gguf.utility.LocalTensor`` like ``tensor``, whose map is kept here when it is read.

        One of a subclass is computed (``convert.lora``): it has no map, and its pages must stay.
        """
        return _NotedTensor(tensor, self._parts) if type(tensor) is gguf.utility.LocalTensor else tensor

    def announce(self, view: torch.Tensor) -> None:
        """Let the kernel read ahead what the view looks at."""
        self._advise(view, mmap.MADV_WILLNEED)

    def populate(self, view: torch.Tensor) -> None:
        """Map the pages of a view at once: one by one they would cost a fault each."""
        self._advise(view, _MADV_POPULATE_READ)

    def give_back(self, view: torch.Tensor) -> None:
        """Unmap the pages of a view that was used. Whoever needs them again, gets them again."""
        self._advise(view, mmap.MADV_DONTNEED)

    def _advise(self, view: torch.Tensor, advice: int) -> None:
        start = view.data_ptr()
        last = sum((size - 1) * stride for size, stride in zip(view.shape, view.stride(), strict=True))
        stop = start + (last + 1) * view.element_size()
        parts = ((part.ctypes.data, part.nbytes) for part in self._parts)
        if not any(low <= start and stop <= low + size for low, size in parts):
            return
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        size = stop // mmap.PAGESIZE * mmap.PAGESIZE - first
        if size > 0:
            _madvise()(first, size, advice)  # advice only: its result changes nothing


class _NotedTensor(gguf.utility.LocalTensor):
    """Reads as its original does, and keeps the map."""

    def __init__(self, original: Any, parts: list[Any]) -> None:
        super().__init__(
            **{field.name: getattr(original, field.name) for field in fields(gguf.utility.LocalTensor)}
        )
        self._parts = parts

    def mmap_bytes(self) -> Any:
        """As the original; uint8."""
        data = super().mmap_bytes()
        self._parts.append(data)
        return data


@cache
def _madvise() -> Any:
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function
