"""Worker side: the mapped parts of the checkpoint that a tensor's views look into.

What is encoded is a copy: a block and its key in the tensor cache then come from the same bytes, whoever
writes the file meanwhile. A copy from the file itself is also the fastest way to hash (measured: 0.82 of
the time through a map, whose pages have to be mapped and given back).

A mapped file counts as memory of the process as long as its pages are mapped. What was copied through
the map is given back to the kernel at once, so that a large tensor takes no more memory than a small one.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from ggufpack.errors import TensorFileError

_MADV_POPULATE_READ = 22  # Linux 5.14; an older kernel refuses it, and nothing is lost


class Scratch(threading.local):
    """Memory for one chunk of values, in each thread its own."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, dtype=np.uint8)

    def like(self, view: torch.Tensor) -> torch.Tensor:
        """A contiguous tensor of the view's shape and dtype, until the thread's next call."""
        size = view.numel() * view.element_size()
        if self._bytes.nbytes < size:
            self._bytes = np.empty(size, dtype=np.uint8)
        return torch.from_numpy(self._bytes[:size]).view(view.dtype).view(view.shape)


@dataclass(frozen=True)
class _Part:
    """A tensor's bytes in its file, and the map of them."""

    data: Any
    place: Any  # gguf.utility.LocalTensorRange

    @property
    def start(self) -> int:
        address: int = self.data.ctypes.data
        return address

    def holds(self, start: int, stop: int) -> bool:
        return self.start <= start and stop <= self.start + int(self.data.nbytes)


class MappedParts:
    """The parts of files that one tensor is read from; they stay mapped as long as this object lives.

    Only their addresses may be given back: elsewhere the kernel would replace values by zeros.
    """

    def __init__(self) -> None:
        self._parts: list[_Part] = []

    def noted(self, tensor: Any) -> Any:
        """A ``gguf.utility.LocalTensor`` like ``tensor``, whose map is kept here when it is read.

        One of a subclass is computed (``convert.lora``): it has no map, and its pages must stay.
        """
        return _NotedTensor(tensor, self._parts) if type(tensor) is gguf.utility.LocalTensor else tensor

    def announce(self, view: torch.Tensor) -> None:
        """Let the kernel read ahead what the view looks at."""
        if self._of(view) is not None:
            _advise(view, mmap.MADV_WILLNEED)

    def copied(self, view: torch.Tensor, scratch: Scratch) -> torch.Tensor:
        """The values of a view, contiguous: in ``scratch``, but for those that were computed.

        Raises:
            TensorFileError: the file has become shorter.
        """
        part = self._of(view)
        if part is None:
            return view.contiguous()
        values = scratch.like(view)
        if view.is_contiguous():
            _read(part, view.data_ptr() - part.start, values)
        else:
            _advise(view, _MADV_POPULATE_READ)  # one by one the pages would cost a fault each
            values.copy_(view)
            _advise(view, mmap.MADV_DONTNEED)  # whoever needs them again, gets them again
        return values

    def _of(self, view: torch.Tensor) -> _Part | None:
        start, stop = _addresses(view)
        return next((part for part in self._parts if part.holds(start, stop)), None)


class _NotedTensor(gguf.utility.LocalTensor):
    """Reads as its original does, and keeps the map."""

    def __init__(self, original: Any, parts: list[_Part]) -> None:
        super().__init__(
            **{field.name: getattr(original, field.name) for field in fields(gguf.utility.LocalTensor)}
        )
        self._parts = parts

    def mmap_bytes(self) -> Any:
        """As the original; uint8."""
        data = super().mmap_bytes()
        self._parts.append(_Part(data, self.data_range))
        return data


def _read(part: _Part, position: int, values: torch.Tensor) -> None:
    """Fill ``values`` from the file, ``position`` bytes behind the tensor's first."""
    left = memoryview(values.view(-1).view(torch.uint8).numpy())
    offset = part.place.offset + position
    path = Path(part.place.filename)
    with path.open("rb", buffering=0) as file:
        while left:
            count = os.preadv(file.fileno(), [left], offset)
            if not count:
                raise TensorFileError(
                    f"{path} ended while it was read.",
                    action="Convert a checkpoint that nothing writes any more.",
                    path=path,
                )
            left, offset = left[count:], offset + count


def _addresses(view: torch.Tensor) -> tuple[int, int]:
    start = view.data_ptr()
    last = sum((size - 1) * stride for size, stride in zip(view.shape, view.stride(), strict=True))
    return start, start + (last + 1) * view.element_size()


def _advise(view: torch.Tensor, advice: int) -> None:
    start, stop = _addresses(view)
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    size = stop // mmap.PAGESIZE * mmap.PAGESIZE - first
    if size > 0:
        _madvise()(first, size, advice)  # advice only: its result changes nothing


@cache
def _madvise() -> Any:
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function
