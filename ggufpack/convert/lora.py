"""Worker side: merges adapters into the base model's tensors as the converter reads them.

The converter reads safetensors through ``gguf.utility.SafetensorsLocal`` and builds its recipes on the
``LocalTensor``s that it gives (llama.cpp b11434, conversion/base.py ``index_tensors``). A changed tensor
is a ``LocalTensor`` whose bytes are computed when the recipe is evaluated; all others stay as they are.

The arithmetic is PEFT's ``merge_and_unload`` on a model in float32 (peft 0.21, ``tuners/lora/layer.py``
``get_delta_weight`` and ``merge``, ``tuners/lora/variants.py`` for DoRA), operation by operation:

    W = float32(W);  for each adapter: W = W + (float32(B) @ float32(A)) · s;  dtype of W(W), once

with s = scaling · weight. On a model in bfloat16 PEFT gives the same, because it holds factors in float32
and torch adds in float32; with ``autocast_adapter_dtype=False`` or ``safe_merge=True`` it rounds the change
to bfloat16 first, which is up to one ulp (of the largest of W, change and sum) away. Several adapters add up:
PEFT's sequential merge, and none of its combination types.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from ggufpack.checkpoint.merge import (
    AddProduct,
    AddVector,
    Change,
    Merge,
    Replace,
    ReplaceRows,
    Stored,
)
from ggufpack.errors import AdapterError, ConversionError

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class MergedTensor(gguf.utility.LocalTensor):
    """A tensor of the base model with its changes.

    Attributes:
        changes: in the order in which they are made.
        was_read: whether its bytes were asked for.
    """

    def __init__(self, origin: Any, shape: tuple[int, ...], changes: Sequence[Change], files: _Files) -> None:
        super().__init__(dtype=origin.dtype, shape=shape, data_range=origin.data_range)
        self._origin = origin
        self._files = files
        self.changes = changes
        self.was_read = False

    def mmap_bytes(self) -> Any:
        """The merged values as bytes, in the base model's dtype."""
        self.was_read = True
        dtype = _DTYPES[self.dtype]
        with torch.inference_mode():
            merged = _merged(_values(self._origin), self.changes, self._files, dtype)
        return merged.reshape(-1).view(torch.uint8).numpy()


class _Files:
    """The adapters' files; each header is read once."""

    def __init__(self, reader: Callable[[Path], Any]) -> None:
        self._reader = reader
        self._tensors: dict[Path, Mapping[str, Any]] = {}

    def values(self, stored: Stored) -> torch.Tensor:
        """A tensor in its own dtype.

        Raises:
            AdapterError: NaN or infinity.
        """
        if stored.file not in self._tensors:
            self._tensors[stored.file] = self._reader(stored.file).tensors
        values = _values(self._tensors[stored.file][stored.name])
        if not bool(torch.isfinite(values).all()):
            raise AdapterError(
                f"{stored.file}: {stored.name} has NaN or infinity.",
                action="The training diverged: take an earlier checkpoint.",
                path=stored.file,
                key=stored.name,
            )
        return values


@contextmanager
def merging(merge: Merge, *, plan_only: bool) -> Iterator[None]:
    """While it lasts, the converter reads merged tensors; with ``plan_only`` only their shapes.

    Raises:
        ConversionError: at the end, when the converter left out a tensor that the adapters change.
    """
    usual = gguf.utility.SafetensorsLocal
    files = _Files(usual)
    made: dict[str, MergedTensor] = {}
    gguf.utility.SafetensorsLocal = partial(_merging_reader, usual, merge, files, made)
    try:
        yield
    finally:
        gguf.utility.SafetensorsLocal = usual
    missing = sorted((merge.changes.keys() | merge.copies.keys()) - made.keys())
    unread = missing or sorted(name for name, tensor in made.items() if not tensor.was_read | plan_only)
    if unread:
        raise ConversionError(
            f"llama.cpp's converter leaves out {len(unread)} tensors that the adapters change,"
            f" {unread[0]} among them: the package would not be the trained model.",
            action="Train without this module.",
            key=unread[0],
        )


def _merging_reader(
    usual: Any, merge: Merge, files: _Files, made: dict[str, MergedTensor], path: Path
) -> Any:
    """A ``SafetensorsLocal`` in which changed tensors are merged."""
    reader = usual(path)
    stored = dict(reader.tensors)
    for name, origin_name in merge.copies.items():
        if origin_name in stored:
            reader.tensors[name] = stored[origin_name]
    for name in [name for name in reader.tensors if name in merge.changes or name in merge.copies]:
        origin = reader.tensors[name]
        shape = merge.shapes.get(name, tuple(origin.shape))
        made[name] = reader.tensors[name] = MergedTensor(origin, shape, merge.changes.get(name, ()), files)
    reader.tensors = dict(sorted(reader.tensors.items()))
    return reader


def _merged(
    weight: torch.Tensor, changes: Sequence[Change], files: _Files, dtype: torch.dtype
) -> torch.Tensor:
    """The merged tensor in ``dtype``."""
    for change in changes:
        if isinstance(change, Replace):
            weight = files.values(change.by)
        elif isinstance(change, AddProduct):
            weight = _with_product(weight.float(), change, files)
        elif isinstance(change, AddVector):
            weight = weight.float() + files.values(change.vector).float() * change.scale
        elif isinstance(change, ReplaceRows):
            rows = files.values(change.by).to(weight.dtype if weight.dtype == torch.float32 else dtype)
            weight = weight.to(rows.dtype).index_copy(0, torch.tensor(change.rows), rows)
    return weight.to(dtype).contiguous()


def _with_product(weight: torch.Tensor, change: AddProduct, files: _Files) -> torch.Tensor:
    """In the product's own memory: a tensor of float32 may take gigabytes."""
    product = files.values(change.b).float() @ files.values(change.a).float()
    # in the order of the weight's memory: sums (of the norm) are rounded in the order of memory
    merged = (product.T.contiguous() if change.transposed else product).mul_(change.scale).add_(weight)
    if change.magnitude is None:
        return merged
    # the norm of each output's weights, with W as [outputs, inputs]
    rows = merged.T if change.transposed else merged
    factor = files.values(change.magnitude).float() / torch.linalg.norm(rows, dim=1)
    return merged.mul_(factor.view(1, -1) if change.transposed else factor.view(-1, 1))


def _values(tensor: Any) -> torch.Tensor:
    """A ``LocalTensor``'s values, as a view of its file."""
    data = np.asarray(tensor.mmap_bytes())
    return torch.from_numpy(data).view(_DTYPES[tensor.dtype]).reshape(tensor.shape)
