"""Checkpoints with other tensors in them: one value changed, another dtype, several shards.

Written with numpy alone. BF16 is kept as the upper half of a float32.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_ITEM_TYPES: Mapping[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a safetensors file holds it; ``items`` are uint16 for BF16."""

    dtype: str
    items: npt.NDArray[Any]

    @classmethod
    def of(cls, values: npt.NDArray[np.float32], dtype: str) -> StoredTensor:
        """From float32 values; BF16 takes only those that it holds exactly."""
        if dtype != "BF16":
            return cls(dtype, values.astype(_ITEM_TYPES[dtype]))
        bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
        assert not (bits & 0xFFFF).any(), "a value needs more than BF16"
        return cls(dtype, (bits >> 16).astype("<u2"))

    def values(self) -> npt.NDArray[np.float32]:
        """As float32, exactly."""
        if self.dtype != "BF16":
            return self.items.astype("<f4")
        return (self.items.astype("<u4") << 16).view("<f4")


def read_tensors(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of a safetensors file, in its order."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        kind = _ITEM_TYPES[entry["dtype"]]
        offset = start + entry["data_offsets"][0]
        items = np.frombuffer(raw, kind, prod(entry["shape"]), offset).reshape(entry["shape"])
        tensors[name] = StoredTensor(entry["dtype"], items.copy())
    return tensors


def write_tensors(path: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """A safetensors file; a symbolic link under its name is replaced, not followed."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, tensor in tensors.items():
        end = position + tensor.items.nbytes
        shape = list(tensor.items.shape)
        header[name] = {"dtype": tensor.dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.unlink(missing_ok=True)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(tensor.items.tobytes())


def store_value(checkpoint: Path, name: str, value: float) -> None:
    """Put ``value`` somewhere in the middle of the tensor ``name``."""
    tensors = read_tensors(checkpoint / SINGLE)
    values = tensors[name].values()
    values.reshape(-1)[values.size // 2 + 5] = value
    tensors[name] = StoredTensor.of(values, tensors[name].dtype)
    write_tensors(checkpoint / SINGLE, tensors)


def store_as(checkpoint: Path, dtype_of: Callable[[str], str]) -> None:
    """Store each tensor in the dtype that ``dtype_of`` gives for its name."""
    tensors = read_tensors(checkpoint / SINGLE)
    changed = {name: StoredTensor.of(tensor.values(), dtype_of(name)) for name, tensor in tensors.items()}
    write_tensors(checkpoint / SINGLE, changed)


def shard(checkpoint: Path, count: int) -> None:
    """Split the single file into ``count``, with an index, as ``save_pretrained`` does."""
    tensors = list(read_tensors(checkpoint / SINGLE).items())
    (checkpoint / SINGLE).unlink()
    weight_map = {}
    for number in range(count):
        file = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        part = dict(tensors[number::count])
        write_tensors(checkpoint / file, part)
        weight_map.update(dict.fromkeys(part, file))
    size = sum(tensor.items.nbytes for _, tensor in tensors)
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (checkpoint / INDEX).write_text(json.dumps(index), encoding="utf-8")
