"""How much memory and disk an item takes, and what there is: estimates from headers, no converter."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufpack.checkpoint import open_checkpoint
from ggufpack.checkpoint.layout import ADAPTER_WEIGHTS
from ggufpack.checkpoint.tensors import TensorTable
from ggufpack.convert.job import memory_needed
from ggufpack.errors import ConversionError, DiskSpaceError
from ggufpack.pipeline import target_of
from ggufpack.quantize.types import FILE_TYPES, TensorType
from ggufpack.spec import BuildSpec

# of the process that builds, beside its worker: the chat template, the tokenizer, the report's plots
BUILDER_BYTES = 500_000_000
# vocabulary, metadata and padding of a GGUF
_HEADER_BYTES = 32 << 20
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Needs:
    """Bytes: memory, and disk in a folder that exists."""

    memory: int
    disk: int
    folder: Path


def needs_of(spec: BuildSpec) -> Needs:
    """An upper estimate.

    Raises:
        GgufpackError: the checkpoint cannot be opened.
    """
    folder = target_of(spec).folder
    existing = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    model = spec.base if spec.base is not None else spec.checkpoint
    checkpoint = open_checkpoint(model)
    if spec.from_model is not None:
        disk = _layer_size(spec)
    else:
        disk = sum(file_size(checkpoint.tensors, quantization) for quantization in spec.quantizations)
    return Needs(memory_needed(checkpoint, spec.threads) + BUILDER_BYTES, disk, existing)


def _layer_size(spec: BuildSpec) -> int:
    """Bytes of an adapter in float32, at most."""
    folders = (spec.checkpoint, *(one.folder for one in spec.adapters))
    stored = [path.stat().st_size for path in (one / ADAPTER_WEIGHTS for one in folders) if path.is_file()]
    return 2 * sum(stored) + _HEADER_BYTES


def _bits(kind: TensorType) -> float:
    return kind.block.bytes / kind.block.weights


def file_size(tensors: TensorTable, quantization: str) -> int:
    """Bytes of a GGUF, at most: the largest type that the rules give some tensors counts for all.

    Mixtures take at most Q6_K for some matrices, or Q8_0 where a row is no whole superblock.
    """
    base = FILE_TYPES[quantization].base
    mixture = base if base.is_float or base is TensorType.Q8_0 else TensorType.Q6_K
    size = _HEADER_BYTES
    for tensor in tensors.values():
        columns = tensor.shape[-1] if tensor.shape else 1
        kind = TensorType.F32
        if len(tensor.shape) > 1:
            kinds = (max(base, mixture, key=_bits), TensorType.Q8_0, TensorType.F16)
            kind = next((one for one in kinds if columns % one.block.weights == 0), TensorType.F16)
        size += kind.size(tensor.elements)
    return size


class Budget:
    """What items may take together: the memory that is free at the beginning, and the disk that is free now.

    Args:
        memory: bytes; ``None`` asks the system.
    """

    def __init__(self, memory: int | None = None) -> None:
        self.memory = available_memory() if memory is None else memory

    def admits(self, needs: Needs, running: Sequence[Needs]) -> bool:
        """Whether an item may start beside those that run.

        Raises:
            DiskSpaceError: it needs more disk than there is, and nothing runs that would give any back.
            ConversionError: it needs more memory than there is at all.
        """
        if needs.memory > self.memory:
            raise ConversionError(
                f"It needs about {needs.memory / 1e9:.1f} GB of memory; free are {self.memory / 1e9:.1f}.",
                action="Close other programs, or use fewer --threads.",
            )
        free = shutil.disk_usage(needs.folder).free
        if needs.disk > free and not running:
            raise DiskSpaceError(
                f"It needs up to {needs.disk / 1e9:.1f} GB in {needs.folder}; free are {free / 1e9:.1f}.",
                action="Make room, or choose another --output.",
                path=needs.folder,
            )
        memory = sum(one.memory for one in running) + needs.memory
        disk = sum(one.disk for one in running) + needs.disk
        return memory <= self.memory and disk <= free


def available_memory() -> int:
    """Bytes that can be used without swapping: what the kernel says, and what the control group leaves."""
    return min([_system_memory(), *_cgroup_memory()])


def _system_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # macOS
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    (line,) = (line for line in lines if line.startswith("MemAvailable:"))
    return int(line.split()[1]) * 1024


def _cgroup_memory() -> list[int]:
    """Control groups version 2; page cache that can be dropped is free."""
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        stat = dict(
            line.split() for line in (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
        )
    except OSError:
        return []
    return [] if limit == "max" else [int(limit) - used + int(stat.get("inactive_file", 0))]
