"""How much memory and disk an item takes, and what there is: estimates from headers, no converter."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ggufpack.batch import storage
from ggufpack.batch.outline import outline
from ggufpack.batch.transfer import sizes
from ggufpack.batch.urls import joined, url_of
from ggufpack.checkpoint import Checkpoint, open_checkpoint
from ggufpack.checkpoint.adapted import open_model
from ggufpack.checkpoint.layout import ADAPTER_WEIGHTS
from ggufpack.checkpoint.tensors import TensorTable, read_tensors
from ggufpack.child import usable_cpus
from ggufpack.convert.job import memory_needed, worker_memory
from ggufpack.errors import ConversionError, DiskSpaceError
from ggufpack.quantize.types import FILE_TYPES, TensorType
from ggufpack.spec import BuildSpec
from ggufpack.target import target_of

# of the process that builds, beside its worker: the chat template, the tokenizer, the report's plots
BUILDER_BYTES = 500_000_000
# vocabulary, metadata and padding of a GGUF
_HEADER_BYTES = 32 << 20
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Needs:
    """Bytes: memory, disk in a folder that exists, and disk for temporary files."""

    memory: int
    disk: int
    folder: Path
    scratch: int = 0


def needs_of(spec: BuildSpec) -> Needs:
    """An upper estimate. What has a URL is a temporary file here, the package included.

    Raises:
        GgufpackError: the checkpoint cannot be opened.
    """
    if url_of(_model(spec)) is None:
        with _opened(spec) as checkpoint:
            memory = _memory_here(spec, checkpoint)
            disk = _package_size(spec, lambda: checkpoint.tensors)
    else:
        memory = memory_of(spec)
        disk = _package_size(spec, lambda: _tensors_there(spec))
    models = (spec.checkpoint, *(one.folder for one in spec.adapters), spec.base)
    urls = filter(None, (url_of(model) for model in models if model is not None))
    fetched = sum(sum(sizes(url).values()) for url in urls)
    folder = target_of(spec).folder
    if url_of(folder) is not None:
        return Needs(memory, 0, Path.cwd(), disk + fetched)
    existing = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    return Needs(memory, disk, existing, fetched)


def memory_of(spec: BuildSpec) -> int:
    """Bytes that an item takes where it is built, estimated.

    Raises:
        GgufpackError: the checkpoint cannot be opened.
    """
    url = url_of(_model(spec))
    if url is None:
        with _opened(spec) as checkpoint:
            return _memory_here(spec, checkpoint)
    tokenizer = storage.size_of(joined(url, "tokenizer.json"))
    return worker_memory(tokenizer, spec.threads or usable_cpus()) + BUILDER_BYTES


def _memory_here(spec: BuildSpec, checkpoint: Checkpoint) -> int:
    return memory_needed(checkpoint, spec.threads) + BUILDER_BYTES


def _tensors_there(spec: BuildSpec) -> TensorTable:
    """Of a model that has a URL."""
    url = url_of(_model(spec))
    assert url is not None  # noqa: S101 - the caller's condition
    with outline(url, 1) as copy:
        return read_tensors(copy)[0]


def _model(spec: BuildSpec) -> Path:
    return spec.base if spec.base is not None else spec.checkpoint


@contextmanager
def _opened(spec: BuildSpec) -> Iterator[Checkpoint]:
    """With its adapters, unless one is not here yet."""
    if any(url_of(folder) for folder in (spec.checkpoint, *(one.folder for one in spec.adapters))):
        yield open_checkpoint(_model(spec))
        return
    with open_model(spec.checkpoint, spec.base, spec.adapters) as checkpoint:
        yield checkpoint


def _package_size(spec: BuildSpec, tensors: Callable[[], TensorTable]) -> int:
    """Bytes of its GGUF files; ``tensors`` are read where they count."""
    if spec.from_model is not None:
        return _layer_size(spec)
    table = tensors()
    return sum(file_size(table, quantization) for quantization in spec.quantizations)


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
        scratch: folder of temporary files; ``None`` is the system's.
    """

    def __init__(self, memory: int | None = None, scratch: Path | None = None) -> None:
        self.memory = available_memory() if memory is None else memory
        self.scratch = scratch or Path(tempfile.gettempdir())

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
        if not running:
            for device, (folder, wanted) in self._disks([needs]).items():
                self._refuse_what_does_not_fit(folder, wanted, is_scratch=device == _device(self.scratch))
        memory = sum(one.memory for one in running) + needs.memory
        disks = self._disks([*running, needs]).values()
        return memory <= self.memory and all(
            wanted <= shutil.disk_usage(folder).free for folder, wanted in disks
        )

    def _disks(self, all_needs: Sequence[Needs]) -> dict[int, tuple[Path, int]]:
        """Device to a folder on it, and the bytes that are wanted there."""
        found: dict[int, tuple[Path, int]] = {}
        for needs in all_needs:
            for folder, wanted in ((needs.folder, needs.disk), (self.scratch, needs.scratch)):
                if wanted:
                    device = _device(folder)
                    _, before = found.get(device, (folder, 0))
                    found[device] = folder, before + wanted
        return found

    @staticmethod
    def _refuse_what_does_not_fit(folder: Path, wanted: int, *, is_scratch: bool) -> None:
        free = shutil.disk_usage(folder).free
        if wanted > free:
            raise DiskSpaceError(
                f"It needs up to {wanted / 1e9:.1f} GB in {folder}; free are {free / 1e9:.1f}.",
                action="Make room, or choose another --output"
                + (" or --journal, beside which temporary files lie." if is_scratch else "."),
                path=folder,
            )


def _device(folder: Path) -> int:
    return folder.stat().st_dev


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
